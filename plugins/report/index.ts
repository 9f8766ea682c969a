/** A page that a person can open: what came in, what was kept, how it learned, what it makes, how good that is. */
import { defineOperation, definePlugin, z } from "../index.ts";
import { readsOf } from "./reads.ts";

const report = defineOperation({
  kind: "job",
  summary: "writes a self-contained report page from a description of results",
  runs: "worker",
  input: z.strictObject({
    description: z.string().meta({
      description: "JSON file: clips, curves, measures and words (see plugins/report/description.ts)",
      format: "path",
    }),
    output: z
      .string()
      .default("report")
      .meta({ description: "folder to write; index.html in it opens without a server", format: "path" }),
  }),
  output: z.object({ page: z.string(), numClips: z.int(), bytes: z.int() }),
  slots: {},
  reads: ({ description }) => readsOf(description),
  writes: ({ page }) => [page],
  examples: ["waver report --description results.json --output report"],
  async run({ description, output }, _picks, ctx) {
    const { writeReport } = await import("./write.ts");
    return writeReport(description, output, ctx);
  },
});

export default definePlugin({
  name: "report",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [],
  operations: { report },
});
