/** Evaluators that need no judge: nearest training clip, fidelity to a given first frame, what the refiner gained. */
import { defineOperation, definePlugin, provide, z } from "../index.ts";
import { Compared } from "./compare.ts";

/** A codec by provider id, its options beside it: the one whose latents are compared. */
const codec = z.looseObject({ id: z.string() }).meta({ description: "codec and its options, for instance its folder" });

const compare = defineOperation({
  kind: "job",
  summary: "compares two clips or pictures frame by frame: PSNR, SSIM and a chart",
  runs: "worker",
  input: z.strictObject({
    a: z.string().min(1).meta({ description: "the clip that is right", format: "path", positional: 0 }),
    b: z.string().min(1).meta({ description: "the clip that is measured", format: "path", positional: 1 }),
    resize: z.boolean().default(false).meta({ description: "scale the second to the size of the first" }),
    output: z.string().optional().meta({ description: "file for a page with the curves (HTML)", format: "path" }),
  }),
  output: Compared,
  slots: {},
  reads: ({ a, b }) => [a, b],
  writes: ({ chart }) => (chart === undefined ? [] : [chart]),
  examples: ["waver compare reference.mp4 mine.mp4 --output compare.html"],
  async run(request, _picks, ctx) {
    const { compare } = await import("./compare.ts");
    return compare(request, ctx);
  },
});

export default definePlugin({
  name: "evaluate-clips",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("evaluate", {
      id: "clips",
      summary: "memorisation (nearest training clip in image features), motion, sharpness, PSNR and SSIM",
      source:
        "SSIM: Wang et al. 2004. Features, motion and sharpness are named substitutes for CLIP, optical flow and a quality model",
      runs: "device",
      options: z.strictObject({
        embed: z
          .string()
          .optional()
          .meta({ description: "embedder by id; the one with the most features when absent" }),
      }),
      traits: {
        measures: [
          "memorised",
          "nearestSimilarity",
          "promptedSimilarity",
          "promptedRank",
          "memorisedCentred",
          "motion",
          "sharpness",
          "psnr",
          "ssim",
        ],
      },
      needs: [{ hook: "embed" }],
      async run(set, { options, ctx }) {
        const { judgeClips } = await import("./clips.ts");
        return judgeClips(set, options.embed, ctx);
      },
    }),
    provide("evaluate", {
      id: "first-frame",
      summary:
        "image to video: PSNR of the first generated frame against the codec's own reconstruction of the given image",
      runs: "device",
      options: z.strictObject({ codec }),
      traits: { measures: ["firstFramePsnr", "imagePsnr"] },
      needs: [{ hook: "codec" }],
      async run(set, { options, ctx }) {
        const { judgeFirstFrames } = await import("./latents.ts");
        return judgeFirstFrames(set, options.codec, ctx);
      },
    }),
    provide("evaluate", {
      id: "refined-latents",
      summary:
        "refined clips: distance (L2) of their latents to the true high-resolution ones, beside that of the bicubically enlarged clip",
      source: "Waver, cascade refiner: the refined latent should leave the enlarged one for the true one",
      runs: "device",
      options: z.strictObject({
        codec,
        scale: z
          .number()
          .gt(1)
          .default(2)
          .meta({ description: "factor by which the true clip is reduced and enlarged again" }),
        given: z.record(z.string(), z.string()).default({}).meta({
          description: "the clip that was refined, by item; the true clip reduced by `scale` when absent",
        }),
        latents: z.record(z.string(), z.string()).default({}).meta({
          description: "the refiner's own latents by item (safetensors); the refined clip is encoded again when absent",
        }),
      }),
      traits: { measures: ["distanceEnlarged", "distanceRefined", "refinedIsNearer"] },
      needs: [{ hook: "codec" }],
      async run(set, { options, ctx }) {
        const { judgeRefined } = await import("./latents.ts");
        return judgeRefined(set, options, ctx);
      },
    }),
  ],
  operations: { compare },
});
