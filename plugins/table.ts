/**
 * The clip table: what curation knows of every clip, as Parquet. Providers of `select` read it and write it again with
 * `dropped` and `reason` set on the rows they leave out: a row stays in the table, so that any decision can be explained
 * and made again with other thresholds.
 */
import { open, rename, rm } from "node:fs/promises";
import type { ColumnSource } from "hyparquet-writer";
import { z } from "zod";
import { WaverError } from "./errors.ts";
import { Digest, type Relation } from "./types.ts";

const Text = z.string().nullable();

export const ClipRow = z.object({
  id: Digest,
  source: Digest,
  path: z.string(),
  tag: z.string(),
  /** Seconds from the start of the source. */
  start: z.number(),
  end: z.number(),
  width: z.int(),
  height: z.int(),
  fps: z.number(),
  caption: Text,
  captionBy: Text,
  /** JSON of a caption's `actions`. */
  actions: Text,
  /** Provider that made `embedding`. */
  embeddedBy: Text,
  embedding: z.instanceof(Float32Array).nullable(),
  /** The rule that dropped the clip, or null while it is kept. */
  dropped: Text,
  /** The same in a sentence, with the figures. */
  reason: Text,
  /** Furthest stage of the funnel that the clip reaches. */
  stage: Text,
  /** How often the clip is seen in one pass over the set; 1 unless a selector repeats it. */
  repeat: z.int().nonnegative(),
  /** `<scorer>.<measure>`; each is a column of its own. A measure that failed or was not asked for is absent. */
  scores: z.record(z.string(), z.number()),
});
export type ClipRow = z.output<typeof ClipRow>;

type Fixed = Exclude<keyof ClipRow, "scores">;
const COLUMNS = {
  id: "STRING",
  source: "STRING",
  path: "STRING",
  tag: "STRING",
  start: "DOUBLE",
  end: "DOUBLE",
  width: "INT32",
  height: "INT32",
  fps: "DOUBLE",
  caption: "STRING",
  captionBy: "STRING",
  actions: "STRING",
  embeddedBy: "STRING",
  embedding: "BYTE_ARRAY",
  dropped: "STRING",
  reason: "STRING",
  stage: "STRING",
  repeat: "INT32",
} as const satisfies Record<Fixed, NonNullable<ColumnSource["type"]>>;

/** Rows of a relation, in order. All of it is held in memory: about 1 KB a clip, and 4 bytes a feature. */
export async function readTable(relation: Pick<Relation, "files">): Promise<ClipRow[]> {
  const { asyncBufferFromFile, parquetReadObjects } = await import("hyparquet");
  const rows: ClipRow[] = [];
  for (const path of relation.files) {
    let raw: Record<string, unknown>[];
    try {
      raw = await parquetReadObjects({ file: await asyncBufferFromFile(path), utf8: false });
    } catch (cause) {
      throw new WaverError("invalid_input", "a clip table cannot be read", {
        cause,
        hint: "make it again: waver curate",
      });
    }
    for (const each of raw) rows.push(rowFrom(each));
  }
  return rows;
}

function rowFrom(raw: Record<string, unknown>): ClipRow {
  // The set that training reads carries no features.
  const row: Record<string, unknown> = { embeddedBy: null, embedding: null };
  const scores: Record<string, number> = {};
  for (const [name, value] of Object.entries(raw)) {
    if (name in COLUMNS) row[name] = name === "embedding" ? floats(value) : (value ?? null);
    else if (typeof value === "number") scores[name] = value;
  }
  const parsed = ClipRow.safeParse({ ...row, scores });
  if (parsed.success) return parsed.data;
  throw new WaverError(
    "invalid_input",
    `this is not a clip table: ${parsed.error.issues[0]?.path.join(".")}: ${parsed.error.issues[0]?.message}`,
  );
}

/** Features are stored as little-endian float32; the copy aligns them. */
const floats = (value: unknown): Float32Array | null =>
  value instanceof Uint8Array ? new Float32Array(value.slice().buffer) : null;

/** Writes rows as one Parquet file, whole or not at all; equal rows give equal bytes. */
export async function writeTable(
  path: string,
  rows: readonly ClipRow[],
  how: { embeddings?: boolean } = {},
): Promise<Relation> {
  const { parquetWriteBuffer } = await import("hyparquet-writer");
  const measures = [...new Set(rows.flatMap((row) => Object.keys(row.scores)))].sort();
  const fixed = (Object.keys(COLUMNS) as Fixed[]).filter(
    (name) => how.embeddings !== false || !name.startsWith("embed"),
  );
  const columnData: ColumnSource[] = [
    ...fixed.map((name) => ({
      name,
      type: COLUMNS[name],
      data: rows.map((row) => (name === "embedding" ? bytes(row.embedding) : row[name])),
    })),
    ...measures.map((name) => ({ name, type: "DOUBLE" as const, data: rows.map((row) => row.scores[name] ?? null) })),
  ];
  const content = parquetWriteBuffer({ columnData, createdBy: "waver" });
  const temporary = `${path}.${process.pid}-${crypto.randomUUID()}.tmp`;
  try {
    const file = await open(temporary, "wx");
    try {
      await file.writeFile(new Uint8Array(content));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  return { files: [path], numRows: rows.length };
}

const bytes = (values: Float32Array | null): Uint8Array | null =>
  values === null ? null : new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
