/** Reads an artefact again and compares it with its digest. */
import { z } from "zod";
import { Digest, defineOperation, WaverError } from "../../plugins/index.ts";
import { findArtefact } from "./lineage/artefact.ts";

export const verify = defineOperation({
  kind: "query",
  summary: "reads an artefact again, byte by byte, and compares it with its digest",
  runs: "worker",
  input: z.strictObject({
    of: z.string().min(1).meta({ description: "digest, beginning of a digest, or name", positional: 0 }),
    inputs: z.boolean().default(false).meta({ description: "everything that it was made from as well" }),
  }),
  output: z.object({
    /** True when all that was read is whole. */
    whole: z.boolean(),
    artefacts: z.array(
      z.object({ digest: Digest, kind: z.string(), name: z.string().nullable(), bytes: z.int(), whole: z.boolean() }),
    ),
    /** Content that was used but lies outside the store, such as source videos. */
    outside: z.array(Digest),
  }),
  slots: {},
  examples: ["waver verify mine", "waver verify sha256:3f2a91 --inputs"],
  async run({ of, inputs }, _, ctx) {
    const { digest: root, lineage } = await findArtefact(of, ctx);
    if (lineage === null)
      throw new WaverError("not_found", `the store has no artefact ${of}`, {
        hint: "give a digest or a name from `waver trace`",
      });
    const seen = new Set<Digest>([root]);
    const artefacts: { digest: Digest; kind: string; name: string | null; bytes: number; whole: boolean }[] = [];
    const outside: Digest[] = [];
    // A set grows while it is walked: what is added is visited too.
    for (const digest of seen) {
      const record = await ctx.store.lineage(digest);
      if (record === null) {
        outside.push(digest);
        continue;
      }
      const whole = (await ctx.store.has(digest)) && (await ctx.store.verify(digest));
      artefacts.push({ digest, kind: record.kind, name: record.name ?? null, bytes: record.bytes, whole });
      if (inputs) for (const each of record.inputs) seen.add(each.digest);
      await ctx.breathe();
    }
    return { whole: artefacts.every((each) => each.whole), artefacts, outside };
  },
});
