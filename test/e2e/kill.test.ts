/** The daemon is killed at random moments: nothing that it acknowledged may be lost, done twice or left behind. */
import { Database } from "bun:sqlite";
import { afterEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createClient } from "../../daemon/client.ts";
import { processStart } from "../../daemon/jobs/pidfile.ts";
import { isTerminal } from "../../daemon/wire.ts";
import { eventually, spawnDaemon, temporaryHome, testDaemon } from "../support/daemon.ts";

/** `WAVER_TEST_CYCLES=1000` is the nightly figure (reliability.md F1). */
const CYCLES = Number(process.env["WAVER_TEST_CYCLES"] ?? 10);
const homes: string[] = [];
const home = (): string => {
  const made = temporaryHome();
  homes.push(made);
  return made;
};
afterEach(() => {
  for (const each of homes.splice(0)) rmSync(each, { recursive: true, force: true });
});

test(
  `${CYCLES} times kill -9 of the daemon: every acknowledged job ends, once`,
  async () => {
    const where = home();
    const trace = join(where, "trace.txt");
    writeFileSync(trace, "");
    const client = createClient({ home: where });
    const acknowledged = new Map<string, string>();
    let slowest = 0;
    for (let cycle = 0; cycle < CYCLES; cycle += 1) {
      const began = performance.now();
      const daemon = await spawnDaemon(where);
      slowest = Math.max(slowest, performance.now() - began);
      const until = performance.now() + 30 + Math.random() * 220;
      const submitting = (async () => {
        for (let n = 0; performance.now() < until + 50; n += 1) {
          const key = `${cycle}-${n}`;
          try {
            const job = await client.submit(
              "workerSteps",
              { steps: 2, ms: 2, trace, nonce: key },
              { idempotencyKey: key },
            );
            acknowledged.set(key, job.id);
          } catch (error) {
            // The daemon was killed before it answered: this one was never acknowledged.
            expect((error as { code?: string }).code).toMatch(/daemon_unreachable|queue_full/);
            if ((error as { code?: string }).code === "daemon_unreachable") return;
          }
        }
      })();
      await Bun.sleep(Math.max(0, until - performance.now()));
      daemon.kill("SIGKILL");
      await daemon.exited;
      await submitting;
    }
    const daemon = await spawnDaemon(where);
    // A repeated request with a known key finds its job again.
    for (const [key, id] of [...acknowledged].slice(0, 20))
      expect(
        (await client.submit("workerSteps", { steps: 2, ms: 2, trace, nonce: key }, { idempotencyKey: key })).id,
      ).toBe(id as never);
    await eventually(async () => {
      const { jobs } = await client.status();
      return jobs.queued === 0 && jobs.running === 0;
    }, 120_000);
    for (const id of acknowledged.values()) expect((await client.job(id)).state).toBe("done");
    daemon.kill("SIGTERM");
    expect(await daemon.exited).toBe(0);

    using journal = new Database(join(where, "journal.sqlite"), { readonly: true });
    expect(journal.query<{ integrity_check: string }, []>("PRAGMA integrity_check").get()?.integrity_check).toBe("ok");
    const events = journal
      .query<{ body: string }, []>("SELECT body FROM events ORDER BY job, seq")
      .all()
      .map((row) => JSON.parse(row.body) as { job: string; seq: number; type: string; state: "done" });
    const ends = new Map<string, number>();
    for (const event of events)
      if (event.type === "state" && isTerminal(event.state)) ends.set(event.job, (ends.get(event.job) ?? 0) + 1);
    for (const id of acknowledged.values()) expect(ends.get(id)).toBe(1);
    console.log(
      JSON.stringify({
        id: "F1",
        cycles: CYCLES,
        acknowledged: acknowledged.size,
        lost: 0,
        slowestStartMs: Math.round(slowest),
      }),
    );
    expect(acknowledged.size).toBeGreaterThan(0);
    expect(slowest).toBeLessThan(5_000);
  },
  60_000 + CYCLES * 3_000,
);

test("a job goes on from its last unit after the daemon was killed, and its runner is gone", async () => {
  const where = home();
  const client = createClient({ home: where });
  const first = await spawnDaemon(where);
  const { id } = await client.submit("steps", { steps: 20, ms: 50 });
  await eventually(async () => ((await client.job(id)).progress?.done ?? 0) >= 4);
  const runner = (await client.status()).runners[0]?.pid ?? 0;
  const seen: number[] = [];
  const watching = (async () => {
    for await (const event of client.events(id)) seen.push(event.seq);
  })();
  // A stopped runner does not notice that its daemon has died: it is an orphan.
  process.kill(runner, "SIGSTOP");
  first.kill("SIGKILL");
  await first.exited;
  const second = await spawnDaemon(where);
  expect(processStart(runner)).toBeNull();
  const job = await client.wait(id);
  expect(job.output).toMatchObject({ attempt: 2 });
  expect((job.output as { resumedFrom: number }).resumedFrom).toBeGreaterThanOrEqual(4);
  await watching;
  // The watcher saw one unbroken stream over both daemons.
  expect(seen).toEqual(seen.map((_, i) => i + 1));
  second.kill("SIGTERM");
  expect(await second.exited).toBe(0);
  expect(readdirSync(join(where, "run", "processes"))).toEqual([]);
}, 60_000);

test("SIGTERM leaves running jobs to the next daemon", async () => {
  const where = home();
  const client = createClient({ home: where });
  const first = await spawnDaemon(where);
  const { id } = await client.submit("steps", { steps: 20, ms: 50 });
  await eventually(async () => ((await client.job(id)).progress?.done ?? 0) >= 3);
  first.kill("SIGTERM");
  expect(await first.exited).toBe(0);
  expect(existsSync(join(where, "run", "daemon.sock"))).toBe(false);
  const second = await spawnDaemon(where);
  const job = await client.wait(id);
  expect((job.output as { resumedFrom: number }).resumedFrom).toBeGreaterThanOrEqual(3);
  second.kill("SIGTERM");
  await second.exited;
}, 60_000);

test("one home has one daemon, also when several start at once", async () => {
  const where = home();
  const outcomes = await Promise.allSettled([spawnDaemon(where), spawnDaemon(where), spawnDaemon(where)]);
  const running = outcomes.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
  expect(running.length).toBe(1);
  for (const each of outcomes)
    if (each.status === "rejected") expect((each.reason as { code: string }).code).toBe("conflict");
  // A lock of a process that is gone is taken over.
  running[0]?.kill("SIGKILL");
  await running[0]?.exited;
  const next = await spawnDaemon(where);
  next.kill("SIGTERM");
  await next.exited;
}, 60_000);

test("two clients that need a daemon at once end with one", async () => {
  const where = home();
  const clients = [createClient({ home: where }), createClient({ home: where }), createClient({ home: where })];
  const pids = await Promise.all(clients.map(async (client) => (await client.ensureDaemon()).pid));
  expect(new Set(pids).size).toBe(1);
  await clients[0]?.shutdown();
  await eventually(async () => processStart(pids[0] ?? 0) === null);
}, 60_000);

test("a daemon that cannot start says why to the client that started it", async () => {
  const where = home();
  mkdirSync(join(where, "journal.sqlite"));
  const error = await createClient({ home: where })
    .ensureDaemon()
    .then(
      () => null,
      (reason: unknown) => reason,
    );
  expect(error).toMatchObject({ code: "daemon_unreachable" });
}, 60_000);

test("a journal of a newer program is refused, an older one is copied before it is changed", async () => {
  const where = home();
  {
    await using _ = await testDaemon({ home: where });
  }
  const file = join(where, "journal.sqlite");
  {
    using journal = new Database(file);
    journal.run("UPDATE meta SET value = '999' WHERE key = 'schema'");
  }
  await expect(testDaemon({ home: where })).rejects.toMatchObject({ code: "version_mismatch" });
  const { migrate } = await import("../../daemon/jobs/schema.ts");
  using old = new Database(join(where, "old.sqlite"), { create: true });
  migrate(old, join(where, "old.sqlite"), ["CREATE TABLE a (x)"]);
  old.run("INSERT INTO a VALUES (1)");
  migrate(old, join(where, "old.sqlite"), ["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y"]);
  using backup = new Database(join(where, "old.sqlite.v1.backup"), { readonly: true });
  expect(backup.query("SELECT * FROM a").all()).toEqual([{ x: 1 }]);
  expect(old.query("SELECT * FROM a").all()).toEqual([{ x: 1, y: null }]);
});

test("the log is rotated by size and holds one JSON object a line", async () => {
  const where = home();
  const { openLog } = await import("../../daemon/log.ts");
  const log = openLog(join(where, "daemon.log"));
  for (let i = 0; i < 1_200; i += 1) log("info", "line", { text: "x".repeat(8_000) });
  log("info", "line", { text: '"'.repeat(40_000) });
  expect(existsSync(join(where, "daemon.log.1"))).toBe(true);
  for (const line of readFileSync(join(where, "daemon.log"), "utf8").trim().split("\n"))
    expect(JSON.parse(line)).toMatchObject({ event: "line" });
});
