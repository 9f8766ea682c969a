import { definePlugin, provide, z } from "../index.ts";

export default definePlugin({
  name: "merge-average",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("merge", {
      id: "average",
      summary: "the plain mean of all weights, summed in float32",
      source: "Waver 4.5, Model averaging (7 to 10 checkpoints); Li et al. 2025",
      runs: "device",
      options: z.strictObject({
        shardBytes: z
          .int()
          .positive()
          .default(2 ** 31)
          .describe("largest file that is written, and the memory that the sum takes"),
      }),
      traits: {},
      async run(request, { options, ctx }) {
        const { average } = await import("./average.ts");
        return average(request, options, ctx);
      },
    }),
  ],
});
