import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ClipRow, readTable, writeTable } from "../table.ts";
import type { Digest } from "../types.ts";
import { dedup } from "./dedup.ts";
import { shards } from "./shards.ts";
import { unit } from "./vector.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-dedup-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const ctx = { log: () => undefined, workDir: folder, breathe: async () => undefined, progress: () => undefined };
const digest = (n: number): Digest => `sha256:${n.toString(16).padStart(64, "0")}` as Digest;

const row = (n: number, more: Partial<ClipRow> = {}): ClipRow => ({
  id: digest(n),
  source: digest(n),
  path: `/v/${n}.mp4`,
  tag: "t",
  start: 0,
  end: 2,
  width: 64,
  height: 64,
  fps: 25,
  caption: null,
  captionBy: null,
  actions: null,
  embeddedBy: "e",
  embedding: null,
  dropped: null,
  reason: null,
  stage: null,
  repeat: 1,
  scores: {},
  ...more,
});

async function run(rows: ClipRow[], threshold = 0.97): Promise<ClipRow[]> {
  const relation = await writeTable(join(folder, `${crypto.randomUUID()}.parquet`), rows);
  return readTable(await dedup(relation, { threshold, prefer: ["q"] }, ctx));
}

describe("dedup", () => {
  test("equal content stays once, near copies leave the best, others stay, order holds", async () => {
    const out = await run([
      row(1, { embedding: Float32Array.of(1, 0, 0), scores: { q: 1 } }),
      row(2, { embedding: Float32Array.of(2, 0.02, 0), scores: { q: 5 } }),
      row(3, { embedding: Float32Array.of(0, 1, 0), scores: { q: 2 } }),
      row(3, { path: "/v/copy.mp4", embedding: Float32Array.of(0, 1, 0), scores: { q: 2 } }),
      row(4, { embedding: Float32Array.of(0, 0.7, 0.7) }),
      row(5),
    ]);
    expect(out.map((each) => each.dropped)).toEqual(["dedup/near", null, null, "dedup/exact", null, null]);
    expect(out[0]?.reason).toContain("2.mp4");
    expect(out[3]?.reason).toContain("same content");
    expect(out.map((each) => each.path)).toEqual([
      "/v/1.mp4",
      "/v/2.mp4",
      "/v/3.mp4",
      "/v/copy.mp4",
      "/v/4.mp4",
      "/v/5.mp4",
    ]);
  });

  test("rows that were dropped before neither count nor change; other embedders are not compared", async () => {
    const same = Float32Array.of(1, 0);
    const out = await run([
      row(1, { dropped: "x/y", reason: "z", embedding: same }),
      row(2, { embedding: same }),
      row(3, { embedding: same, embeddedBy: "other" }),
    ]);
    expect(out.map((each) => each.dropped)).toEqual(["x/y", null, null]);
  });

  test("thousands of clips are sharded and the copies still found", () => {
    let state = 3;
    const random = (): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32 - 0.5;
    };
    const vectors = Array.from({ length: 4500 }, () => unit(Float32Array.from({ length: 16 }, random)));
    const copies = vectors.slice(0, 200).map((vector) => unit(vector.map((value) => value + random() * 0.002)));
    const all = [...vectors, ...copies];
    const parts = shards(all);
    expect(parts.length).toBeGreaterThan(1);
    expect(parts.flat().sort((a, b) => a - b)).toEqual(all.map((_, i) => i));
    const where = new Map(parts.flatMap((part, i) => part.map((index) => [index, i] as const)));
    const together = copies.filter((_, i) => where.get(i) === where.get(4500 + i)).length;
    expect(together).toBeGreaterThan(190);
  });
});
