/** The Waver network: text, image and known frames to video, and the refiner that has the same form. */
import { definePlugin, OFFLOAD, Offload, provide, WaverError, WEIGHTS, WeightForm, z } from "../index.ts";
import { countParameters, WaverParams } from "./params.ts";

const options = z.strictObject({
  path: z.string().optional().describe("folder with config.json and weights, for instance MODEL/transformer"),
  config: WaverParams.optional().describe("a network with fresh weights instead, to be trained"),
  seed: z.int().nonnegative().default(0).describe("of fresh weights"),
  dtype: z.enum(["float32", "bfloat16"]).optional().describe("precision of the weights; as stored when absent"),
  weights: WeightForm.optional().describe(WEIGHTS),
  offload: z
    .boolean()
    .optional()
    .describe("weights of the blocks are on the device around their turns only, for networks larger than it"),
});

const BYTES = { float32: 4, bfloat16: 2 };

export default definePlugin({
  name: "waver",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("family", {
      id: "waver",
      summary: "task-unified DiT: dual- and single-stream blocks, RoPE with learned positions; windows in the refiner",
      source: "Waver 2.1, 2.2, Table 1",
      runs: "device",
      options,
      traits: {
        classes: ["WaverTransformer3DModel"],
        tasks: ["t2i", "t2v", "i2v", "interpolate"],
        trainable: true,
        // Waver 4.5, Prompt tagging: the undesirable qualities that captions of the training data end with
        negativePrompt: "low definition, slow motion",
      },
      outlines: true,
      async bytes({ path, config, dtype = "float32", weights, offload }) {
        const { readParams, load, offloaded } = await import("./checkpoint.ts");
        if (weights !== undefined && config === undefined) {
          using shapes = await load(given(path), { dtype, device: "meta", weights, offload });
          return shapes.loadedBytes();
        }
        const params = config ?? (await readParams(given(path)));
        const all = countParameters(params).total * BYTES[dtype];
        const bytes = offload === true ? offloaded(params, dtype) : all;
        if (dtype !== "bfloat16") return bytes;
        const { packingPays } = await import("../../native/index.ts");
        return packingPays(all) ? 2 * bytes : bytes;
      },
      async load({ path, config, seed, ...how }, ctx) {
        const { WaverDenoiser } = await import("./denoiser.ts");
        const { fresh } = await import("./checkpoint.ts");
        if (config !== undefined) return new WaverDenoiser(fresh(config, seed, { ...how, device: ctx.device }));
        return WaverDenoiser.load(given(path), { ...how, device: ctx.device });
      },
      run: async (_input, { state }) => state,
    }),
    provide("refine", {
      id: "waver-refiner",
      summary: "enlarges a video and runs it through the pipeline's refiner",
      source: "Waver 2.2",
      runs: "device",
      options: z.strictObject({
        path: z.string().describe("pipeline folder with refiner/, vae/ and text_encoder/"),
        shift: z.number().positive().default(1).describe("shift of the grid of w; 1 is even"),
        weights: WeightForm.optional().describe(WEIGHTS),
        offload: Offload.default("auto").describe(OFFLOAD),
      }),
      // 360p to 1080p
      traits: { classes: ["WaverTransformer3DModel"], maxScale: 3 },
      async run(request, { options, ctx }) {
        const { refine } = await import("./refine.ts");
        return refine(request, options, ctx);
      },
    }),
  ],
});

function given(path: string | undefined): string {
  if (path === undefined) throw new WaverError("invalid_input", "waver needs a path, or a config for fresh weights");
  return path;
}
