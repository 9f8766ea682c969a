/** CLIP: image and text in one space, and the image encoder of Wan's image-to-video. */
import { definePlugin, meanOfFrames, provide, WaverError, z } from "../index.ts";

const dtype = z.enum(["float32", "bfloat16"]).optional().describe("precision of the weights; as stored when absent");
const options = z.strictObject({
  path: z.string().optional().meta({
    description: "folder with config.json and weights; the plugin's configured one when absent",
    format: "path",
  }),
  dtype,
});

/** What the user's configuration names. */
let configured: string | undefined;

function weightsAt(path: string | undefined): string {
  const found = path ?? configured;
  if (found === undefined)
    throw new WaverError("checkpoint_missing", "no weights of CLIP are configured", {
      hint: "name a folder in Transformers' layout: plugin.clip.path in the configuration, or the option path",
    });
  return found;
}

export default definePlugin({
  name: "clip",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({
    path: z.string().optional().meta({ description: "folder of the CLIP that is used when a request names none" }),
  }),
  provides: [
    provide("encodeImage", {
      id: "clip",
      summary: "CLIP's vision tower: tokens of the images that a video continues",
      source: "Wan 4.2 (image-to-video), arXiv 2503.20314; Radford et al. 2021, arXiv 2103.00020",
      runs: "device",
      options: z.strictObject({
        path: z
          .string()
          .describe(
            "folder with config.json and weights, for instance MODEL/image_encoder, or a safetensors file of the tower",
          ),
        dtype,
      }),
      traits: { classes: ["CLIPVisionModel", "CLIPVisionModelWithProjection"] },
      outlines: true,
      async bytes({ path, dtype }) {
        const { visionBytes } = await import("./checkpoint.ts");
        return visionBytes(path, dtype);
      },
      async load({ path, dtype }, ctx) {
        const { ClipImages } = await import("./images.ts");
        return ClipImages.load(path, { dtype, device: ctx.device });
      },
      run: async (_input, { state }) => state,
    }),
    provide("embed", {
      id: "clip",
      summary: "CLIP's image embedding, averaged over frames, of length 1; needs weights that you bring",
      source: "Radford et al. 2021, arXiv 2103.00020; layout and preprocessing of Transformers",
      runs: "device",
      options,
      traits: {
        // 224 is what nearly all published towers were trained at; another size is made of it by the checkpoint's own processor
        view: { width: 224, height: 224, fit: "cover", rate: 4, format: "rgb24", batch: 8 },
        dim: null,
      },
      async bytes({ path, dtype }) {
        const { visionBytes } = await import("./checkpoint.ts");
        return visionBytes(weightsAt(path), dtype);
      },
      async load({ path, dtype }, ctx) {
        const { ClipImages } = await import("./images.ts");
        return ClipImages.load(weightsAt(path), { dtype, device: ctx.device });
      },
      run: ({ frames }, { state, ctx }) => meanOfFrames(frames, (batch) => state.sumOf(batch), ctx),
    }),
    provide("evaluate", {
      id: "clip",
      summary: "CLIP's likeness of prompt and frames, and of neighbouring frames; needs weights that you bring",
      source: "Hessel et al. 2021 (CLIPScore), arXiv 2104.08718; VBench (background consistency), arXiv 2311.17982",
      runs: "device",
      options,
      traits: { measures: ["textSimilarity", "clipScore", "frameConsistency"] },
      async bytes({ path, dtype }) {
        const { wholeBytes } = await import("./checkpoint.ts");
        return wholeBytes(weightsAt(path), dtype);
      },
      async load({ path, dtype }, ctx) {
        const { ClipJudge } = await import("./judge.ts");
        return ClipJudge.load(weightsAt(path), { dtype, device: ctx.device });
      },
      async run(set, { state, ctx }) {
        const { judgePrompts } = await import("./judge.ts");
        return judgePrompts(set, state, ctx);
      },
    }),
  ],
  async setup({ config }) {
    configured = config.path;
    return undefined;
  },
});
