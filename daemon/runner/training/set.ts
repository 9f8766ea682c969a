/** Reads a training set: Parquet files with one row a clip. */
import { readdir, stat } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import { type Context, Digest, WaverError } from "../../../plugins/index.ts";

/** The columns that training reads; a set may have more. A picture has no start and no end. */
export const SetRow = z.object({
  id: z.string(),
  path: z.string(),
  caption: z.string(),
  start: z.number().nullish(),
  end: z.number().nullish(),
});
export type SetRow = z.output<typeof SetRow>;

/** A folder or file as given, or the local path of a digest. */
export async function localPath(given: string, ctx: Pick<Context, "store">): Promise<string> {
  const digest = Digest.safeParse(given);
  if (!digest.success) return resolve(given);
  if (!(await ctx.store.has(digest.data))) throw new WaverError("not_found", `the store has no ${given}`);
  return ctx.store.path(digest.data);
}

/** Rows in the order of file names and rows; relative paths start at the set's folder. */
export async function readSet(given: string, ctx: Pick<Context, "store">): Promise<SetRow[]> {
  const { asyncBufferFromFile, parquetReadObjects } = await import("hyparquet");
  const path = await localPath(given, ctx);
  const isFolder = await stat(path).then(
    (facts) => facts.isDirectory(),
    () => undefined,
  );
  if (isFolder === undefined) throw new WaverError("not_found", `no training set at ${given}`);
  const files = isFolder
    ? (await readdir(path))
        .filter((name) => name.endsWith(".parquet"))
        .sort()
        .map((name) => join(path, name))
    : [path];
  const base = isFolder ? path : join(path, "..");
  const rows: SetRow[] = [];
  for (const file of files) {
    for (const raw of await parquetReadObjects({ file: await asyncBufferFromFile(file) })) {
      const row = SetRow.safeParse(raw);
      if (!row.success)
        throw new WaverError(
          "invalid_input",
          `${file}: row ${rows.length + 1}: ${row.error.issues[0]?.path.join(".")} ${row.error.issues[0]?.message}`,
        );
      rows.push({ ...row.data, path: isAbsolute(row.data.path) ? row.data.path : join(base, row.data.path) });
    }
  }
  if (rows.length === 0)
    throw new WaverError("invalid_input", `the set ${given} has no clips`, {
      hint: "loosen the rules that dropped them",
    });
  return rows;
}
