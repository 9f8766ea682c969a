/** Leaves one of every group of clips that show the same (Waver 3.1 asks for diverse clips; SemDeDup for how). */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

const options = z.strictObject({
  // Ours, measured: copies (re-encoded, resized, darkened) reach 0.97 to 0.999 by thumbprint and 0.85 to 0.99 by
  // EfficientNet-Lite0 features, other scenes at most 0.70 and 0.64. High, since a lost clip is worse than a double one.
  threshold: z
    .number()
    .min(-1)
    .max(1)
    .default(0.9)
    .meta({ description: "cosine of two clips' features from which they are the same" }),
  prefer: z
    .array(z.string())
    .default(["basic.shortSide", "visual.sharpness", "basic.duration"])
    .meta({ description: "measures whose higher value stays, in order" }),
});

export default definePlugin({
  name: "select-dedup",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("select", {
      id: "dedup",
      summary: "drops clips of the same content (digest) and of nearly the same look (features stored in the table)",
      source: "Abbas et al. 2023 (SemDeDup), arXiv 2303.09540: near pairs are looked for within k-means shards",
      runs: "worker",
      options,
      traits: {},
      async run(relation, { options, ctx }) {
        const { dedup } = await import("./dedup.ts");
        return dedup(relation, options, ctx);
      },
    }),
  ],
});
