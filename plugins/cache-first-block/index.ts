/** First-block caching of a denoiser. */
import { definePlugin, MEASURE, provide, z } from "../index.ts";

const part = z.number().min(0).max(1);

export default definePlugin({
  name: "cache-first-block",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("accelerate", {
      id: "first-block",
      summary: "runs the first block, and the others only where it says something new",
      source: "First-Block Cache (ParaAttention, as diffusers has it), after TeaCache, arXiv 2411.19108",
      runs: "device",
      options: z.strictObject({
        threshold: z
          .number()
          .min(0)
          .default(0.08)
          .describe(
            "how far, relative to itself, what the first block adds may have moved for the others to be left out; 0: they never are",
          ),
        mostInRow: z
          .int()
          .positive()
          .nullable()
          .default(null)
          .describe("passes after which all blocks run again at the latest; null: no limit"),
        from: part.default(0).describe("part of the steps before which all blocks run"),
        to: part.default(1).describe("part of the steps after which all blocks run"),
        measure: MEASURE,
      }),
      traits: { ranks: false },
      async run(request, { options }) {
        const { FirstBlock } = await import("./first-block.ts");
        return new FirstBlock(options, request.memory);
      },
    }),
  ],
});
