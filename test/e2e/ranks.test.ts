/**
 * `generate` on several ranks, through a real daemon: the same latents as on one, from one seed; what a death of one of
 * them leads to; where they listen.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Client, createClient } from "../../daemon/client.ts";
import { findFfmpeg } from "../../daemon/media/ffmpeg.ts";
import type { JobEvent, JobView } from "../../daemon/wire.ts";
import { Generator, openSafetensors, randn, saveSafetensors, scope, setThreads } from "../../native/index.ts";
import { eventually, temporaryHome } from "../support/daemon.ts";
import { LOOPBACK_IN_PROC, listening } from "../support/ranks.ts";
import { tinyPipeline } from "../support/tiny-pipeline.ts";

const ROOT = join(import.meta.dir, "../..");
/** 2 heads, 2 blocks; 48 x 32 pixels are 2 x 2 x 3 tokens. */
const WAN = join(ROOT, "test/golden/pipeline_wan_t2v/pipeline");
const home = temporaryHome();
let waver: string;
let client: Client;
let daemon: Bun.Subprocess<"ignore", "pipe", "inherit">;

beforeAll(async () => {
  setThreads(1);
  waver = await tinyPipeline(join(home, "tiny"));
  await start();
  client = createClient({ home });
});

async function start(): Promise<void> {
  daemon = Bun.spawn([process.execPath, join(ROOT, "daemon/main.ts"), "--home", home], {
    cwd: home,
    env: {
      ...{ PATH: process.env["PATH"], HOME: process.env["HOME"], XDG_CONFIG_HOME: home, OMP_WAIT_POLICY: "PASSIVE" },
      // one thread everywhere: a convolution's last bits depend on their number
      ...{ WAVER_CACHE: join(home, "cache"), WAVER_FFMPEG: findFfmpeg(), WAVER_WORKERS: "1", WAVER_THREADS: "1" },
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const { value } = await daemon.stdout.getReader().read();
  expect(JSON.parse(new TextDecoder().decode(value))).toMatchObject({ ready: true });
}

afterAll(async () => {
  daemon.kill("SIGTERM");
  await daemon.exited;
  rmSync(home, { recursive: true, force: true });
});

const requests = {
  wan: { model: WAN, width: 48, height: 32, numFrames: 5, numSteps: 4, maxTokens: 16 },
  waver: { model: "", numSteps: 4 },
};
type Family = keyof typeof requests;
const bodyOf = (family: Family, more: object): Record<string, unknown> => ({
  ...requests[family],
  ...(family === "waver" ? { model: waver } : {}),
  ...{ prompt: "a red ball rolls over grass", negativePrompt: "blurred", seed: 7, keepLatents: true },
  ...more,
});

async function latentsOf(job: JobView): Promise<Float32Array> {
  expect(job.error ?? null).toBeNull();
  const [item] = (job.output as { items: { latents: string }[] }).items;
  using file = openSafetensors((item as { latents: string }).latents);
  return scope(() => file.get("latents").toFloat32Array());
}
const generated = async (family: Family, more: object = {}): Promise<Float32Array> => {
  const { id } = await client.submit("generate", bodyOf(family, more));
  return latentsOf(await client.wait(id));
};

/** |a - b| / |b| */
const distance = (a: Float32Array, b: Float32Array): number =>
  Math.hypot(...a.map((x, i) => x - (b[i] as number))) / Math.hypot(...b);
/** What other kernels of the reference change in a whole pipeline's result, times 16 (golden/README.md, Tolerance; its `pipeline_wan_*`, `waver_sampling`). */
const FLOAT32 = 1e-4;

describe.each(["wan", "waver"] as const)("%s: the latents of one rank", (family) => {
  let alone: Float32Array;
  beforeAll(async () => {
    alone = await generated(family);
  });

  test.each([
    ["2 ranks, Ulysses", { ranks: 2, parallel: { attention: "ulysses" } }],
    ["2 ranks, Ring", { ranks: 2, parallel: { attention: "ring" } }],
    ["4 ranks: both", { ranks: 4 }],
    ["4 ranks: both prompts side by side, each on 2", { ranks: 4, parallel: { replicas: 2 } }],
    ["2 ranks with half of the weights each", { ranks: 2, parallel: { shardWeights: true } }],
  ])("%s", async (_, more) => {
    const spread = await generated(family, more);
    expect(spread.length).toBe(alone.length);
    expect(distance(spread, alone)).toBeLessThanOrEqual(FLOAT32);
  });

  test("two replicas give it to the bit: whole passes are only placed elsewhere", async () => {
    expect(await generated(family, { ranks: 2, parallel: { replicas: 2 } })).toEqual(alone);
  });
});

test("a batch on two replicas without guidance: rows side by side, and the seeds' own noise", async () => {
  const more = { numSamples: 2, batchSize: 2, guide: { id: "none" } };
  const alone = await generated("waver", more);
  const spread = await generated("waver", { ...more, ranks: 2, parallel: { replicas: 2 } });
  // one row a pass instead of two: other kernels
  expect(distance(spread, alone)).toBeLessThanOrEqual(FLOAT32);
});

/** On one layer, under the name that it has in the authors' repository; 40 is the width of the golden pipeline. */
function lora(name: string, seed: number, layer: string): string {
  const path = join(home, `${name}.safetensors`);
  using generator = new Generator(seed);
  scope(() =>
    saveSafetensors(path, {
      [`diffusion_model.${layer}.lora_down.weight`]: randn([2, 40], { generator }),
      [`diffusion_model.${layer}.lora_up.weight`]: randn([40, 2], { generator }),
    }),
  );
  return path;
}

test("LoRAs are on every rank, and off again for the next job", async () => {
  const specs = [lora("a", 1, "blocks.0.self_attn.q"), `${lora("b", 2, "blocks.1.self_attn.v")}:-0.5`];
  const without = await generated("wan", { seed: 3 });
  const alone = await generated("wan", { seed: 3, lora: specs });
  expect(distance(alone, without)).toBeGreaterThan(0.01);
  const spread = { seed: 3, ranks: 2 };
  expect(distance(await generated("wan", { ...spread, lora: specs }), alone)).toBeLessThanOrEqual(FLOAT32);
  expect(distance(await generated("wan", spread), without)).toBeLessThanOrEqual(FLOAT32);
  const replicas = { ...spread, parallel: { replicas: 2 } };
  expect(await generated("wan", { ...replicas, lora: specs })).toEqual(alone);
});

/** Processes of the daemon that are ranks, by their command lines. */
function ranksOf(): { pid: number; rank: number }[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const parent = /^\d+ \(.*\) \S (\d+)/.exec(readFileSync(`/proc/${name}/stat`, "utf8"))?.[1];
      const rank = /"rank":(\d+)/.exec(readFileSync(`/proc/${name}/cmdline`, "utf8"))?.[1];
      return Number(parent) === daemon.pid && rank !== undefined ? [{ pid: Number(name), rank: Number(rank) }] : [];
    } catch {
      return []; // it ended meanwhile
    }
  });
}

test("every rank listens on loopback only (reliability.md S5)", async () => {
  await generated("wan", { ranks: 2, seed: 8 });
  const ranks = ranksOf();
  expect(ranks.length).toBe(2);
  for (const { pid } of ranks) expect([...new Set(listening(pid))]).toEqual([LOOPBACK_IN_PROC]);
});

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
  const job = await client.submit("generate", bodyOf("waver", more));
  const abort = new AbortController();
  const attempts: number[] = [];
  for await (const event of client.events(job.id, { signal: abort.signal }) as AsyncIterable<JobEvent>) {
    if (event.type === "state") attempts.push(event.attempt);
    if (event.type === "progress" && event.progress.stage === "denoise" && attempts.at(-1) === 1) break;
  }
  const before = ranksOf();
  const { runners } = await client.status();
  const shown = runners.filter(({ device }) => device.includes("rank"));
  expect(shown.map(({ device, job, state }) => ({ device, job, state }))).toEqual(
    [0, 1].map((rank) => ({ device: `cpu (rank ${rank} of 2)`, job: job.id, state: "busy" })),
  );
  process.kill(before.find(({ rank }) => rank === victim)?.pid as number, signal);
  await eventually(async () => before.every(({ pid }) => !ranksOf().some((each) => each.pid === pid)), within);
  const disturbed = await client.wait(job.id);
  expect(disturbed.attempt).toBe(2);
  const again = await generated("waver", { ...more, metadata: false });
  expect(await latentsOf(disturbed)).toEqual(again);
});

test("kill -9 of the daemon: its ranks end by themselves, and the next daemon starts others for the job", async () => {
  const more = { ranks: 2, numSteps: 150, seed: 5 };
  const job = await client.submit("generate", bodyOf("waver", more));
  for await (const event of client.events(job.id, { signal: new AbortController().signal }) as AsyncIterable<JobEvent>)
    if (event.type === "progress" && event.progress.stage === "denoise") break;
  const before = ranksOf();
  expect(before.length).toBe(2);
  daemon.kill("SIGKILL");
  await daemon.exited;
  await eventually(async () => before.every(({ pid }) => !isAlive(pid)), 15_000);
  await start();
  const disturbed = await client.wait(job.id);
  expect(disturbed.attempt).toBe(2);
  expect(await latentsOf(disturbed)).toEqual(await generated("waver", { ...more, metadata: false }));
});

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

test.each([
  [
    "3 ranks by 2 heads",
    "wan",
    { ranks: 3, parallel: { attention: "ulysses" } },
    "2 heads do not divide by parallel.ulysses 3",
  ],
  [
    "more ranks than tokens",
    "wan",
    { ranks: 5, width: 32, height: 16, numFrames: 5 },
    "4 tokens cannot be spread over 5 ranks",
  ],
  ["replicas", "wan", { ranks: 3, parallel: { replicas: 2 } }, "3 ranks do not divide into parallel.replicas 2"],
  ["more ranks than a machine has use for", "wan", { ranks: 1000 }, "ranks 1000 are more than the"],
  [
    "LoRA",
    "wan",
    { ranks: 2, parallel: { shardWeights: true }, lora: ["style.safetensors"] },
    "LoRA needs whole weights",
  ],
] as const)("what does not fit is one sentence: %s", async (_, family, more, sentence) => {
  const failure = await client
    .submit("generate", bodyOf(family, more))
    .then(({ id }) => client.wait(id))
    .then(
      (job) => job.error,
      (error: unknown) => error as { code: string; message: string },
    );
  expect(failure).toMatchObject({ code: "invalid_input" });
  expect(failure?.message).toContain(sentence);
});
