/** DINOv2: image features learned without labels, for likeness of clips and as a target of representation alignment. */
import { type Context, definePlugin, meanOfFrames, provide, WaverError, z } from "../index.ts";

const options = z.strictObject({
  path: z.string().optional().meta({
    description: "folder with config.json and weights; the plugin's configured one when absent",
    format: "path",
  }),
  dtype: z.enum(["float32", "bfloat16"]).optional().describe("precision of the weights; as stored when absent"),
});
type Options = z.output<typeof options>;

/** What the user's configuration names. */
let configured: string | undefined;

function weightsAt(path: string | undefined): string {
  const found = path ?? configured;
  if (found === undefined)
    throw new WaverError("checkpoint_missing", "no weights of DINOv2 are configured", {
      hint: "name a folder in Transformers' layout: plugin.dinov2.path in the configuration, or the option path",
    });
  return found;
}

async function bytes({ path, dtype }: Options): Promise<number> {
  const { weightBytes } = await import("./checkpoint.ts");
  return weightBytes(weightsAt(path), dtype);
}

async function load({ path, dtype }: Options, ctx: Context) {
  const { Dinov2Images } = await import("./images.ts");
  return Dinov2Images.load(weightsAt(path), { dtype, device: ctx.device });
}

const source =
  "Oquab et al. 2023, arXiv 2304.07193; Darcet et al. 2023, arXiv 2309.16588 (registers); layout of Transformers";

export default definePlugin({
  name: "dinov2",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({
    path: z.string().optional().meta({ description: "folder of the DINOv2 that is used when a request names none" }),
  }),
  provides: [
    provide("embed", {
      id: "dinov2",
      summary: "DINOv2's class token, averaged over frames, of length 1; needs weights that you bring",
      source,
      runs: "device",
      options,
      // 256 is what the published processor shrinks to before it cuts 224 out of the middle
      traits: { view: { width: 256, height: 256, fit: "cover", rate: 4, format: "rgb24", batch: 8 }, dim: null },
      bytes,
      load,
      run: ({ frames }, { state, ctx }) => meanOfFrames(frames, (batch) => state.sumOf(batch), ctx),
    }),
    provide("perceive", {
      id: "dinov2",
      summary:
        "maps of DINOv2's patches after each quarter of its layers, with gradients; needs weights that you bring",
      source,
      runs: "device",
      options,
      traits: { taps: 4 },
      bytes,
      load,
      run: async (_input, { state }) => state,
    }),
  ],
  async setup({ config }) {
    configured = config.path;
    return undefined;
  },
});
