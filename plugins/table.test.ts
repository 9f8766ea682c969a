import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ClipRow, readTable, writeTable } from "./table.ts";
import type { Digest } from "./types.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-table-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const digest = (n: number): Digest => `sha256:${n.toString(16).padStart(64, "0")}` as Digest;
const row = (n: number): ClipRow => ({
  id: digest(n),
  source: digest(1000 + n),
  path: `/videos/狗 ${n}.mp4`,
  tag: "stock",
  start: n / 25,
  end: n / 25 + 2.04,
  width: 640,
  height: 360,
  fps: 30000 / 1001,
  caption: n % 3 === 0 ? null : `clip "${n}", with a comma`,
  captionBy: n % 3 === 0 ? null : "sidecar",
  actions: null,
  embeddedBy: n % 2 === 0 ? "some" : null,
  embedding: n % 2 === 0 ? Float32Array.from([n, -0.5, 1e-7]) : null,
  dropped: n % 4 === 0 ? "192p/static" : null,
  reason: n % 4 === 0 ? "it does not move" : null,
  stage: "192p",
  repeat: 1,
  scores: n === 5 ? { "basic.fps": 25 } : { "basic.fps": 25, "motion.total": n * 1.5 },
});

test("rows come back as they were, absent values too", async () => {
  const rows = Array.from({ length: 2500 }, (_, n) => row(n));
  const path = join(folder, "clips.parquet");
  expect(await writeTable(path, rows)).toEqual({ files: [path], numRows: 2500 });
  expect(await readTable({ files: [path] })).toEqual(rows);
  expect(readdirSync(folder)).toEqual(["clips.parquet"]);
});

test("equal rows give equal bytes, several files are one table, embeddings may stay behind", async () => {
  const [a, b] = [join(folder, "a.parquet"), join(folder, "b.parquet")];
  await writeTable(a, [row(1), row(2)]);
  await writeTable(b, [row(1), row(2)]);
  expect(Buffer.from(await Bun.file(a).arrayBuffer()).equals(Buffer.from(await Bun.file(b).arrayBuffer()))).toBe(true);
  expect((await readTable({ files: [a, b] })).map(({ id }) => id)).toEqual([
    digest(1),
    digest(2),
    digest(1),
    digest(2),
  ]);
  await writeTable(b, [row(2)], { embeddings: false });
  expect(await readTable({ files: [b] })).toEqual([{ ...row(2), embeddedBy: null, embedding: null }]);
});

test("an empty table is a table, other files are not", async () => {
  const path = join(folder, "none.parquet");
  await writeTable(path, []);
  expect(await readTable({ files: [path] })).toEqual([]);
  await Bun.write(join(folder, "text.parquet"), "no table at all");
  expect(await readTable({ files: [join(folder, "text.parquet")] }).catch((error) => error.code)).toBe("invalid_input");
});
