/** Marks copies: first those of equal content, then those whose features nearly agree with a better clip's. */
import { join } from "node:path";
import type { Context } from "../define.ts";
import { type ClipRow, readTable, writeTable } from "../table.ts";
import type { Relation } from "../types.ts";
import { shards } from "./shards.ts";
import { dot, unit, type Vector } from "./vector.ts";

export interface DedupOptions {
  readonly threshold: number;
  readonly prefer: readonly string[];
}

export async function dedup(
  relation: Relation,
  options: DedupOptions,
  ctx: Pick<Context, "log" | "workDir" | "breathe" | "progress">,
): Promise<Relation> {
  const rows = await readTable(relation);
  const better = rows.filter((row) => row.dropped === null).sort((a, b) => compare(a, b, options.prefer));
  const exact = markExact(better);
  const kept = better.filter((row) => row.dropped === null);
  const without = kept.filter((row) => row.embedding === null).length;
  if (without > 0) ctx.log("dedup_without_features", { clips: without, hint: "near copies among them are not found" });
  const near = await markNear(kept, options.threshold, ctx);
  ctx.log("dedup", { clips: better.length, exact, near });
  return writeTable(join(ctx.workDir, `dedup-${crypto.randomUUID()}.parquet`), rows);
}

/** Better clips first; ties in the order of ids, so that the outcome does not hang on the order of files. */
function compare(a: ClipRow, b: ClipRow, prefer: readonly string[]): number {
  for (const measure of prefer) {
    const difference =
      (b.scores[measure] ?? Number.NEGATIVE_INFINITY) - (a.scores[measure] ?? Number.NEGATIVE_INFINITY);
    if (difference !== 0 && !Number.isNaN(difference)) return difference;
  }
  return a.id < b.id ? -1 : a.id > b.id ? 1 : a.path < b.path ? -1 : 1;
}

/** A clip's id is the digest of its source's content and its span. */
function markExact(rows: readonly ClipRow[]): number {
  const first = new Map<string, ClipRow>();
  let count = 0;
  for (const row of rows) {
    const twin = first.get(row.id);
    if (twin === undefined) first.set(row.id, row);
    else {
      row.dropped = "dedup/exact";
      row.reason = `it is the same content as ${named(twin)}`;
      count++;
    }
  }
  return count;
}

async function markNear(
  rows: readonly ClipRow[],
  threshold: number,
  ctx: Pick<Context, "breathe" | "progress">,
): Promise<number> {
  let count = 0;
  // Features of different networks cannot be compared.
  const groups = Map.groupBy(
    rows.filter((row) => row.embedding !== null),
    (row) => `${row.embeddedBy} ${row.embedding?.length}`,
  );
  let seen = 0;
  const total = rows.length;
  for (const members of groups.values()) {
    const features = members.map((row) => unit(row.embedding as Vector));
    for (const shard of shards(features)) {
      const kept: number[] = [];
      for (const index of shard) {
        const row = members[index] as ClipRow;
        let nearest = -1;
        let cosine = threshold;
        for (const other of kept) {
          const value = dot(features[index] as Vector, features[other] as Vector);
          if (value >= cosine) [nearest, cosine] = [other, value];
        }
        if (nearest < 0) kept.push(index);
        else {
          row.dropped = "dedup/near";
          row.reason = `its features agree to ${cosine.toFixed(3)} with ${named(members[nearest] as ClipRow)}, from ${threshold} on they are the same`;
          count++;
        }
        if (++seen % 256 === 0) {
          ctx.progress(seen, total, "dedup");
          await ctx.breathe();
        }
      }
    }
  }
  return count;
}

const named = (row: ClipRow): string =>
  `${row.path.split("/").at(-1)} from ${row.start.toFixed(2)} s (${row.id.slice(0, 15)})`;
