/** Says why a clip is in a set or not: the rule, the figures, and everything that was measured. */
import { basename, resolve } from "node:path";
import { z } from "zod";
import { type ClipRow, type Context, Digest, defineOperation, readTable, WaverError } from "../../plugins/index.ts";
import { findArtefact } from "./lineage/artefact.ts";

/** Clips in one answer. */
const MOST = 500;

const input = z.strictObject({
  clip: z.string().min(1).meta({ description: "id of a clip or its beginning, or a source video", positional: 0 }),
  table: z
    .string()
    .optional()
    .meta({ description: "clip table by digest, name or path; all, the newest first, when absent" }),
});

const Clip = z.object({
  id: Digest,
  path: z.string(),
  start: z.number(),
  end: z.number(),
  caption: z.string().nullable(),
  captionBy: z.string().nullable(),
  kept: z.boolean(),
  rule: z.string().nullable(),
  reason: z.string().nullable(),
  stage: z.string().nullable(),
  scores: z.record(z.string(), z.number()),
});

export const explain = defineOperation({
  kind: "query",
  summary: "says which rule kept or dropped a clip, and why",
  runs: "worker",
  input,
  output: z.object({ table: Digest, name: z.string().nullable(), clips: z.array(Clip) }),
  slots: {},
  examples: ["waver explain sha256:3f2a91", "waver explain videos/park.mp4", "waver explain 3f2a91 --table mine"],
  async run({ clip, table }, _, ctx) {
    for (const lineage of await tables(table, ctx)) {
      const rows = await readTable({ files: [await ctx.store.path(lineage.digest)] });
      const found = meant(rows, clip).slice(0, MOST);
      if (found.length > 0) return { table: lineage.digest, name: lineage.name ?? null, clips: found.map(said) };
      await ctx.breathe();
    }
    throw new WaverError("not_found", `no clip table knows ${clip}`, {
      hint: "give a clip's id, the beginning of it, or the path of a source video",
    });
  },
});

async function tables(
  name: string | undefined,
  ctx: Context,
): Promise<{ digest: Digest; name?: string | undefined }[]> {
  if (name !== undefined) {
    const { digest, lineage } = await findArtefact(name, ctx, "clip-table");
    return [{ digest, name: lineage?.name }];
  }
  const all = await Array.fromAsync(ctx.store.list("clip-table"));
  return all.toSorted((a, b) => (a.createdAt < b.createdAt ? 1 : -1));
}

/** Rows of this id or path; else, since a path is often given without its folder, rows of a file of this name. */
function meant(rows: readonly ClipRow[], clip: string): ClipRow[] {
  const hex = clip.replace(/^sha256:/, "");
  if (/^[0-9a-f]{6,64}$/.test(hex))
    return rows.filter(({ id, source }) => id.startsWith(`sha256:${hex}`) || source.startsWith(`sha256:${hex}`));
  const exact = rows.filter(({ path }) => path === resolve(clip));
  return exact.length > 0 ? exact : rows.filter(({ path }) => basename(path) === basename(clip));
}

const said = ({
  id,
  path,
  start,
  end,
  caption,
  captionBy,
  dropped,
  reason,
  stage,
  scores,
}: ClipRow): z.output<typeof Clip> => ({
  id,
  path,
  start,
  end,
  caption,
  captionBy,
  kept: dropped === null,
  rule: dropped,
  reason,
  stage,
  scores,
});
