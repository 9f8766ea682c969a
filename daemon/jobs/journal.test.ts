import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { JobEvent, JobId, JobState } from "../wire.ts";
import { Journal } from "./journal.ts";
import { migrate } from "./schema.ts";
import { newRow, type Write } from "./store.ts";

let folder: string;
let journal: Journal;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "waver-journal-"));
  journal = new Journal(join(folder, "journal.sqlite"));
});
afterEach(async () => {
  await journal[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

const idOf = (n: number): JobId => `job_${String(n).padStart(16, "0")}` as JobId;
const day = (n: number): string => new Date(Date.UTC(2026, 0, n)).toISOString();
const progress = (job: JobId, seq: number): Write => ({
  kind: "event",
  event: { type: "progress", seq, time: day(1), job, progress: { stage: "s", done: seq, total: 1e6 } },
});

/** A job that ended on a day, with a state, a log line and some progress. */
function past(n: number, state: JobState, parent: number | null = null): Write[] {
  const job = idOf(n);
  const row = newRow({
    id: job,
    age: n,
    operation: "op",
    priority: 0,
    parent: parent === null ? null : idOf(parent),
    idempotencyKey: null,
    bodyHash: "",
    body: {},
    childKey: null,
  });
  const ended = state === "queued" || state === "running" ? null : day(n);
  return [
    { kind: "insert", job: { ...row, state, finishedAt: ended } },
    { kind: "event", event: { type: "state", seq: 1, time: day(n), job, state, attempt: 1 } },
    { kind: "event", event: { type: "log", seq: 2, time: day(n), job, level: "info", event: "said", fields: {} } },
    progress(job, 3),
    progress(job, 4),
  ];
}
const types = async (n: number): Promise<JobEvent["type"][]> =>
  (await journal.events(idOf(n), 0, 100)).map(({ type }) => type);

test("the newest jobs are kept, and all that are not over or belong to one that is not", async () => {
  await journal.commit([
    ...past(1, "running"),
    ...past(2, "done", 1),
    ...past(3, "done"),
    ...past(4, "failed"),
    ...past(5, "cancelled"),
    ...past(6, "done"),
  ]);
  const retention = { jobs: 2, progressBefore: day(0), digests: 10 };
  expect(await journal.prune(retention)).toEqual({ jobs: 2, events: 8 });
  expect(await journal.prune(retention)).toEqual({ jobs: 0, events: 0 });
  expect((await journal.list({ limit: 10 })).map(({ id }) => id)).toEqual([6, 5, 2, 1].map(idOf));
  expect(await types(3)).toEqual([]);
  expect((await types(2)).length).toBe(4);
});

test("progress of jobs that are long over goes, once; what happened to them stays", async () => {
  await journal.commit([...past(1, "done"), ...past(2, "failed"), ...past(9, "done"), ...past(3, "running")]);
  const retention = { jobs: 100, progressBefore: day(5), digests: 10 };
  expect(await journal.prune(retention)).toEqual({ jobs: 0, events: 4 });
  expect(await journal.prune(retention)).toEqual({ jobs: 0, events: 0 });
  expect(await types(1)).toEqual(["state", "log"]);
  for (const n of [9, 3]) expect((await types(n)).length).toBe(4);
});

test("progress of a job that goes on for days is thinned, its other events are not", async () => {
  await journal.commit(past(1, "running"));
  const job = idOf(1);
  for (let seq = 5; seq <= 20_000; seq += 1_000)
    await journal.commit(Array.from({ length: Math.min(1_000, 20_001 - seq) }, (_, i) => progress(job, seq + i)));
  const kept = await journal.events(job, 0, 100_000);
  expect(kept.length).toBeLessThan(2_400);
  expect(kept.slice(0, 2).map(({ type }) => type)).toEqual(["state", "log"]);
  // The last thousand are all there, and a reader who goes on from the middle finds the rest in order.
  expect(kept.slice(-1_000).map(({ seq }) => seq)).toEqual(Array.from({ length: 1_000 }, (_, i) => 19_001 + i));
  const later = await journal.events(job, 10_050, 3);
  expect(later.map(({ seq }) => seq)).toEqual([10_100, 10_200, 10_300]);
});

test("remembered digests of files have an end", async () => {
  for (let i = 0; i < 8; i += 1) await journal.rememberFileDigest(`/file${i}`, "stamp", "digest");
  await journal.prune({ jobs: 10, progressBefore: day(0), digests: 3 });
  const left = await Promise.all(Array.from({ length: 8 }, (_, i) => journal.fileDigest(`/file${i}`, "stamp")));
  expect(left.filter((digest) => digest !== null).length).toBe(3);
});

test("half a backup of an interrupted migration is made again", () => {
  const file = join(folder, "old.sqlite");
  using old = new Database(file, { create: true });
  migrate(old, file, ["CREATE TABLE a (x)"]);
  old.run("INSERT INTO a VALUES (1)");
  writeFileSync(`${file}.v1.backup.part`, "torn");
  migrate(old, file, ["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y"]);
  using backup = new Database(`${file}.v1.backup`, { readonly: true });
  expect(backup.query("SELECT * FROM a").all()).toEqual([{ x: 1 }]);
  expect(existsSync(`${file}.v1.backup.part`)).toBe(false);
});

test("a migration killed at any moment ends, at the next start, with the backup and the new schema", async () => {
  const steps = ["CREATE TABLE a (x)", ...Array.from({ length: 5 }, (_, i) => `ALTER TABLE a ADD COLUMN y${i}`)];
  const program = `
    import { Database } from "bun:sqlite";
    import { migrate } from ${JSON.stringify(join(import.meta.dir, "schema.ts"))};
    const file = process.argv[1];
    using db = new Database(file, { create: true });
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = FULL");
    migrate(db, file, ${JSON.stringify(steps)});
    process.stdout.write("done");`;
  for (let kill = 0; kill < 6; kill += 1) {
    const file = join(folder, `kill-${kill}.sqlite`);
    {
      using old = new Database(file, { create: true });
      migrate(old, file, steps.slice(0, 1));
      old.run("INSERT INTO a VALUES (1)");
    }
    const child = Bun.spawn([process.execPath, "-e", program, file], { stdout: "ignore", stderr: "ignore" });
    await Bun.sleep(15 + 12 * kill);
    child.kill("SIGKILL");
    await child.exited;
    using db = new Database(file);
    migrate(db, file, steps);
    expect(Object.keys(db.query("SELECT * FROM a").get() as object)).toEqual(["x", "y0", "y1", "y2", "y3", "y4"]);
    using backup = new Database(`${file}.v1.backup`, { readonly: true });
    expect(backup.query("PRAGMA integrity_check").get()).toEqual({ integrity_check: "ok" });
    expect(backup.query("SELECT * FROM a").all()).toEqual([{ x: 1 }]);
  }
  expect(readdirSync(folder).filter((name) => name.endsWith(".part"))).toEqual([]);
});
