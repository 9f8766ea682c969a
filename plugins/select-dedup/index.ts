/** Leaves one of every group of clips that show the same (Waver 3.1 asks for diverse clips; SemDeDup for how). */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

const options = z.strictObject({
  threshold: z
    .number()
    .min(-1)
    .max(1)
    .default(0.97)
    .meta({
      description:
        "cosine of two clips' features from which they are the same; ours: a re-encoded, resized and darkened copy has 0.999, other scenes stay under 0.7 (thumbprint)",
    }),
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
