/** RAFT: optical flow by torchvision's networks, and how much moves in a clip by it (Waver 3.1, dynamic quality). */
import { definePlugin, provide, WaverError, z } from "../index.ts";

/** What the user's configuration names. */
let configured: string | undefined;

function weightsAt(path: string | undefined): string {
  const found = path ?? configured;
  if (found === undefined)
    throw new WaverError("checkpoint_missing", "no weights of RAFT are configured", {
      hint: "name a safetensors file with torchvision's raft_small or raft_large: plugin.raft.path in the configuration, or the option path",
    });
  return found;
}

export default definePlugin({
  name: "raft",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({
    path: z.string().optional().meta({ description: "weights that are used when a request names none" }),
  }),
  provides: [
    provide("score", {
      id: "raft",
      summary:
        "dense flow by RAFT, split into camera, foreground and background, in the measures of `motion`; needs weights that you bring",
      source: "Waver 3.1, dynamic quality; Teed & Deng 2020, arXiv 2003.12039; weights and keys of torchvision",
      runs: "device",
      options: z.strictObject({
        path: z.string().optional().meta({
          description: "safetensors of raft_small or raft_large; the plugin's configured file when absent",
          format: "path",
        }),
        numUpdates: z.int().positive().default(12).describe("refinements of the flow of a pair of frames"),
      }),
      traits: {
        // twice the view of `motion`, so that both sides are over RAFT's 128 and 144 divides by 8
        view: { width: 256, height: 144, fit: "stretch", rate: 8, format: "rgb24", batch: 8 },
        measures: ["total", "camera", "foreground", "background", "foregroundShare", "diversity"],
      },
      async bytes({ path }) {
        const { weightBytes } = await import("./checkpoint.ts");
        return weightBytes(weightsAt(path));
      },
      async load({ path }, ctx) {
        const { loadRaft } = await import("./checkpoint.ts");
        return loadRaft(weightsAt(path), ctx.device);
      },
      async run({ frames }, { options, state, ctx }) {
        const { measureFlow } = await import("./motion.ts");
        return measureFlow(state, frames, options, ctx);
      },
    }),
  ],
  async setup({ config }) {
    configured = config.path;
    return undefined;
  },
});
