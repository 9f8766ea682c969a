/** A rank of a job, or the daemon above it, dies or is stopped: what follows, and that the result is the same. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { JobEvent } from "../../daemon/wire.ts";
import { eventually } from "../support/daemon.ts";
import { RankDaemon } from "../support/rank-daemon.ts";

let daemon: RankDaemon;
beforeAll(async () => {
  daemon = await RankDaemon.open();
});
afterAll(() => daemon[Symbol.asyncDispose]());

/** A stopped process is killed after 15 s of silence, looked for every second; five more are allowed (reliability.md C3). */
const STOPPED_MS = 15_000 + 5_000;
const long = (process.env["WAVER_TEST_SIZE"] ?? "default") !== "default";

test.each([
  ["kill -9 of the one that leads", 0, "SIGKILL", 10_000],
  ["kill -9 of one that follows", 1, "SIGKILL", 10_000],
  ...(long ? ([["a stop of the one that leads", 0, "SIGSTOP", STOPPED_MS]] as const) : []),
  ...(long ? ([["a stop of one that follows", 1, "SIGSTOP", STOPPED_MS]] as const) : []),
] as const)("%s: all start again, the job goes on, the result is the same", async (_, victim, signal, within) => {
  // no two of these are equal work
  const more = { ranks: 2, numSteps: 150, seed: 10 + victim + within };
  const job = await daemon.client.submit("generate", daemon.body("waver", more));
  const abort = new AbortController();
  const attempts: number[] = [];
  for await (const event of daemon.client.events(job.id, { signal: abort.signal }) as AsyncIterable<JobEvent>) {
    if (event.type === "state") attempts.push(event.attempt);
    if (event.type === "progress" && event.progress.stage === "denoise" && attempts.at(-1) === 1) break;
  }
  const before = daemon.ranks();
  const { runners } = await daemon.client.status();
  const shown = runners.filter(({ device }) => device.includes("rank"));
  expect(shown.map(({ device, job, state }) => ({ device, job, state }))).toEqual(
    [0, 1].map((rank) => ({ device: `cpu (rank ${rank} of 2)`, job: job.id, state: "busy" })),
  );
  process.kill(before.find(({ rank }) => rank === victim)?.pid as number, signal);
  await eventually(async () => before.every(({ pid }) => !daemon.ranks().some((each) => each.pid === pid)), within);
  const disturbed = await daemon.client.wait(job.id);
  expect(disturbed.attempt).toBe(2);
  const again = await daemon.generated("waver", { ...more, metadata: false });
  expect(await daemon.latents(disturbed)).toEqual(again);
});

test("ranks that cannot start: the job says why, in the words of the device or its library", async () => {
  // more GPUs than a machine has: with no CUDA at all it is the first rank that fails, else the second
  await using none = await RankDaemon.open("cuda:99");
  const { id } = await none.client.submit("generate", none.body("wan", { ranks: 2 }));
  const error = await none.client.wait(id).then(
    (job) => job.error,
    (failure: unknown) => failure as { code: string; message: string },
  );
  expect(error?.code).toBe("runner_failed");
  expect(error?.message).toMatch(/ended before it was ready \(.*exit code 70: .*(cuda|CUDA|NCCL|device)/);
});

test("kill -9 of the daemon: its ranks end by themselves, and the next daemon starts others for the job", async () => {
  const more = { ranks: 2, numSteps: 150, seed: 5 };
  const job = await daemon.client.submit("generate", daemon.body("waver", more));
  for await (const event of daemon.client.events(job.id, {
    signal: new AbortController().signal,
  }) as AsyncIterable<JobEvent>)
    if (event.type === "progress" && event.progress.stage === "denoise") break;
  const before = daemon.ranks();
  expect(before.length).toBe(2);
  await daemon.kill();
  await eventually(async () => before.every(({ pid }) => !isAlive(pid)), 15_000);
  await daemon.start();
  const disturbed = await daemon.client.wait(job.id);
  expect(disturbed.attempt).toBe(2);
  expect(await daemon.latents(disturbed)).toEqual(await daemon.generated("waver", { ...more, metadata: false }));
});

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
