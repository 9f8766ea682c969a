/** A disk that is nearly full takes no new work; one that fills up under a job costs the job, never the journal. */
import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "../../daemon/client.ts";
import { openLog } from "../../daemon/log.ts";
import type { WaverError } from "../../plugins/errors.ts";
import { eventually, spawnDaemon } from "../support/daemon.ts";

const home = mkdtempSync(join(tmpdir(), "waver-disk-"));
const mount = (...words: string[]): boolean => Bun.spawnSync(["mount", ...words], { stderr: "ignore" }).exitCode === 0;
const mounted = process.platform === "linux" && mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", home);
afterAll(() => {
  if (mounted) Bun.spawnSync(["umount", "--lazy", home]);
  rmSync(home, { recursive: true });
});

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "none",
    (error: unknown) => (error as WaverError).code,
  );

/** Takes every last byte. */
function fill(): void {
  const file = openSync(join(home, "filler"), "w");
  try {
    for (const size of [1 << 20, 4096, 1])
      for (;;) {
        try {
          if (writeSync(file, Buffer.alloc(size)) < size) break;
        } catch (error) {
          expect((error as NodeJS.ErrnoException).code).toBe("ENOSPC");
          break;
        }
      }
  } finally {
    closeSync(file);
  }
}

test.skipIf(!mounted)("a small disk that fills up under a job (mounting one needs root)", async () => {
  const client = createClient({ home });
  const daemon = await spawnDaemon(home);
  const short = { steps: 2, ms: 1 };

  // 64 MB is the floor: the daemon answers, and refuses what it could not finish.
  const refused = await client.submit("steps", short).catch((error: unknown) => error as WaverError);
  expect(refused).toMatchObject({ code: "disk_full", message: expect.stringMatching(/^only \d+ MB are free/) });
  const response = await fetch("http://localhost/v1/steps", {
    method: "POST",
    unix: join(home, "run/daemon.sock"),
    body: "{}",
    headers: { "Content-Type": "application/json" },
  });
  expect(response.status).toBe(507);
  expect(await client.jobs()).toEqual([]);

  expect(mount("-o", "remount,size=160m", home)).toBe(true);
  await eventually(async () => (await codeOf(client.submit("steps", short))) === "none");
  const reserve = join(home, "reserve");
  expect(statSync(reserve).size).toBe(4 << 20);

  const { id } = await client.submit("steps", { steps: 200, ms: 20 });
  await eventually(async () => ((await client.job(id)).progress?.done ?? 0) >= 3);
  fill();
  // It stops, is not lost, and says what it waits for; nothing new is taken.
  const paused = await eventually(async () => {
    const job = await client.job(id);
    return job.state === "queued" ? job : null;
  });
  expect(paused.error).toMatchObject({ code: "disk_full", hint: expect.stringContaining("goes on by itself") });
  expect(await codeOf(client.submit("steps", short))).toBe("disk_full");
  expect((await client.status()).jobs).toMatchObject({ queued: 1, running: 0 });
  // The reserve was given back to the journal; without it too the daemon goes on answering.
  fill();
  expect((await client.job(id)).state).toBe("queued");
  expect(await codeOf(client.submit("steps", short))).toBe("disk_full");

  // A daemon cannot be started without a byte, and says so; with a little room it can, and waits as the other did.
  daemon.kill("SIGKILL");
  await daemon.exited;
  fill();
  const failed = Bun.spawnSync([process.execPath, join(import.meta.dir, "../../daemon/main.ts"), "--home", home]);
  expect(JSON.parse(failed.stdout.toString())).toMatchObject({ ready: false, error: { code: "disk_full" } });
  truncateSync(join(home, "filler"), statSync(join(home, "filler")).size - (16 << 20));
  const next = await spawnDaemon(home);
  await Bun.sleep(3_000);
  expect(await client.job(id)).toMatchObject({ state: "queued", error: { code: "disk_full" } });
  rmSync(join(home, "filler"));
  const done = await client.wait(id);
  expect(done).toMatchObject({ state: "done", attempt: 2 });
  expect(done.error).toBeUndefined();
  expect((done.output as { resumedFrom: number }).resumedFrom).toBeGreaterThanOrEqual(3);
  await eventually(async () => (await codeOf(client.submit("steps", short))) === "none");
  await eventually(async () => (await client.status()).jobs.running === 0);
  expect(existsSync(reserve)).toBe(true);
  next.kill("SIGTERM");
  expect(await next.exited).toBe(0);
  using journal = new Database(join(home, "journal.sqlite"), { readonly: true });
  expect(journal.query("PRAGMA integrity_check").get()).toEqual({ integrity_check: "ok" });
  expect(readdirSync(join(home, "work"))).toEqual([]);
});

test.skipIf(!mounted)("a log on a full disk loses lines, and says how many (mounting one needs root)", () => {
  const file = join(home, "lines.log");
  const log = openLog(file);
  log("info", "first");
  fill();
  // The page that holds the first line has room for some more.
  for (let i = 0; i < 20; i += 1) log("info", "long", { text: "x".repeat(2_000) });
  rmSync(join(home, "filler"));
  log("info", "last");
  const lines = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { event: string; lines?: number });
  const written = lines.filter(({ event }) => event === "long").length;
  expect(lines.map(({ event }) => event)).toEqual(["first", ...Array(written).fill("long"), "log_lines_lost", "last"]);
  expect(lines.at(-2)?.lines).toBe(20 - written);
});
