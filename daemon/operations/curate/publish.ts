/** Puts the clip table and the set into the store, with everything they were made from. */
import { existsSync, readdirSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { version } from "../../../package.json";
import { type ClipRow, type Context, type Digest, WaverError, writeTable } from "../../../plugins/index.ts";

export interface Published {
  readonly path: string;
  readonly digest: Digest;
}

export interface PublishOptions {
  readonly name: string;
  /** Folder for a copy of the set; the store's own is named when absent. */
  readonly output?: string | undefined;
  readonly sources: readonly Digest[];
  /** What the request resolved to, written into the records. */
  readonly options: Readonly<Record<string, unknown>>;
}

export async function publish(
  rows: readonly ClipRow[],
  how: PublishOptions,
  ctx: Context,
): Promise<{ table: Published; set: Published }> {
  const by = { operation: "curate", version };
  const inputs = how.sources.map((digest) => ({ role: "source", digest }));
  const tableFile = join(ctx.workDir, "clips.parquet");
  await writeTable(tableFile, rows);
  const table = await ctx.store.publish(tableFile, {
    kind: "clip-table",
    name: how.name,
    inputs,
    by,
    options: { ...how.options },
    meta: { clips: rows.length },
  });

  const kept = rows.filter((row) => row.dropped === null);
  const folder = join(ctx.workDir, "set");
  await writeSet(folder, how.name, kept);
  const set = await ctx.store.publish(folder, {
    kind: "set",
    name: how.name,
    by,
    options: { ...how.options },
    meta: { clips: kept.length, seconds: total(kept) },
    inputs: [{ role: "table", digest: table }, ...new Set(kept.map((row) => row.source))].map((each) =>
      typeof each === "string" ? { role: "source", digest: each } : each,
    ),
  });
  if (how.output !== undefined) await copyOut(resolve(how.output), how.name, kept);
  return {
    table: { path: await ctx.store.path(table), digest: table },
    set: { path: how.output === undefined ? await ctx.store.path(set) : resolve(how.output), digest: set },
  };
}

const total = (rows: readonly ClipRow[]): number => rows.reduce((sum, row) => sum + row.end - row.start, 0);

/** A folder with the kept rows, without features, and a word on what it is. */
async function writeSet(folder: string, name: string, kept: readonly ClipRow[]): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await writeTable(join(folder, "part-00000.parquet"), kept, { embeddings: false });
  await writeFile(
    join(folder, "set.json"),
    `${JSON.stringify({ name, clips: kept.length, seconds: total(kept) }, null, 1)}\n`,
  );
}

/** A copy where the person wants it, whole or not at all. An older set there is replaced, anything else is left alone. */
async function copyOut(target: string, name: string, kept: readonly ClipRow[]): Promise<void> {
  if (existsSync(target) && readdirSync(target).length > 0 && !existsSync(join(target, "set.json"))) {
    throw new WaverError("conflict", "the folder for the set holds other files", {
      hint: "name a folder that is empty or not there",
    });
  }
  await mkdir(dirname(target), { recursive: true });
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}-${crypto.randomUUID()}.tmp`);
  const aside = `${temporary}.old`;
  try {
    await writeSet(temporary, name, kept);
    // A folder cannot be renamed over one that holds files.
    await rename(target, aside).catch((error: unknown) => {
      if ((error as { code?: unknown }).code !== "ENOENT") throw error;
    });
    await rename(temporary, target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
    await rm(aside, { recursive: true, force: true });
  }
}
