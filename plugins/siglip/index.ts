/** SigLIP: image features trained beside text with a sigmoid. */
import { definePlugin, meanOfFrames, provide, WaverError, z } from "../index.ts";

/** What the user's configuration names. */
let configured: string | undefined;

function weightsAt(path: string | undefined): string {
  const found = path ?? configured;
  if (found === undefined)
    throw new WaverError("checkpoint_missing", "no weights of SigLIP are configured", {
      hint: "name a folder in Transformers' layout: plugin.siglip.path in the configuration, or the option path",
    });
  return found;
}

export default definePlugin({
  name: "siglip",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({
    path: z.string().optional().meta({ description: "folder of the SigLIP that is used when a request names none" }),
  }),
  provides: [
    provide("embed", {
      id: "siglip",
      summary: "SigLIP's image embedding, averaged over frames, of length 1; needs weights that you bring",
      source: "Zhai et al. 2023, arXiv 2303.15343; layout and preprocessing of Transformers",
      runs: "device",
      options: z.strictObject({
        path: z.string().optional().meta({
          description: "folder with config.json and weights; the plugin's configured one when absent",
          format: "path",
        }),
        dtype: z.enum(["float32", "bfloat16"]).optional().describe("precision of the weights; as stored when absent"),
      }),
      traits: {
        // 384 is the largest size that SigLIP is commonly published for; smaller ones are made of it by the checkpoint's processor
        view: { width: 384, height: 384, fit: "stretch", rate: 4, format: "rgb24", batch: 8 },
        dim: null,
      },
      async bytes({ path, dtype }) {
        const { visionBytes } = await import("./checkpoint.ts");
        return visionBytes(weightsAt(path), dtype);
      },
      async load({ path, dtype }, ctx) {
        const { SiglipImages } = await import("./images.ts");
        return SiglipImages.load(weightsAt(path), { dtype, device: ctx.device });
      },
      run: ({ frames }, { state, ctx }) => meanOfFrames(frames, (batch) => state.sumOf(batch), ctx),
    }),
  ],
  async setup({ config }) {
    configured = config.path;
    return undefined;
  },
});
