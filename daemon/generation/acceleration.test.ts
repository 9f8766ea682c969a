import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSafetensors, scope, setThreads } from "../../native/index.ts";
import { type Guide, provide, type WaverError, z } from "../../plugins/index.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { slowGuide } from "../../test/support/slow-guide.ts";
import { tinyPipeline } from "../../test/support/tiny-pipeline.ts";
import { twoDenoisers } from "../../test/support/two-denoisers.ts";
import { generate } from "../operations/generate.ts";
import type { Savings } from "./acceleration.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = [
  "t5",
  "wan",
  "wan-vae",
  "waver",
  "flow",
  "guide-cfg",
  "cache-first-block",
  "cache-taylor",
  "storage-local",
];
const wan = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const scratch = mkdtempSync(join(tmpdir(), "acceleration-"));
const waver = join(scratch, "waver");
beforeAll(async () => void (await tinyPipeline(waver)));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const NUM_STEPS = 6;
const HUGE = 1e9;
/** Blocks of the two networks. */
const WAN_BLOCKS = 2;
const small = { width: 16, height: 16, numFrames: 5, numSteps: NUM_STEPS, metadata: false, keepLatents: true };
const request = { model: wan, prompt: "a ball", maxTokens: 8, ...small };

interface Output {
  readonly items: readonly { readonly latents: string; readonly path: string; readonly digest: string }[];
  readonly cache?: Savings;
}
const open = (more: Parameters<typeof testContext>[0] = {}): Promise<TestContext> => testContext({ plugins, ...more });
const run = async (ctx: TestContext, input: Record<string, unknown>): Promise<Output> =>
  (await runOperation(generate, input, ctx)) as Output;
/** In a context of its own: latents of each sample, and what was said of the cache. */
const alone = async (
  input: Record<string, unknown>,
): Promise<{ latents: Float32Array[]; digest: string; cache?: Savings | undefined }> => {
  await using ctx = await open();
  const { items, cache } = await run(ctx, input);
  return { latents: items.map(({ latents }) => numbers(latents)), digest: items[0]?.digest as string, cache };
};
const numbers = (path: string): Float32Array => {
  using file = openSafetensors(path);
  return scope(() => file.get("latents").toFloat32Array());
};
const distance = (a: Float32Array, b: Float32Array): number =>
  a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (b[i] as number))), 0);

describe.each([
  ["wan", () => request],
  ["waver", () => ({ ...request, model: waver, width: 32, height: 32 })],
] as const)("%s", (_name, of) => {
  test("threshold 0 makes the file that no cache makes", async () => {
    const [plain, cached] = [await alone(of()), await alone({ ...of(), cache: { id: "first-block", threshold: 0 } })];
    expect(cached.digest).toBe(plain.digest);
    expect(plain.cache).toBeUndefined();
    expect(cached.cache).toMatchObject({
      by: "first-block",
      passes: 2 * NUM_STEPS,
      cutPasses: 0,
      skipped: 0,
      estimatedSpeedup: 1,
      note: expect.stringContaining("cache.measure"),
    });
  });

  test("what was left out is counted, and its price measured beside the same sample without", async () => {
    const cache = { id: "first-block", threshold: HUGE, measure: true };
    const [plain, cached] = [await alone(of()), await alone({ ...of(), cache })];
    const savings = cached.cache as Savings;
    expect(savings.passes).toBe(2 * NUM_STEPS);
    expect(savings.cutPasses).toBe(2 * (NUM_STEPS - 1)); // each prompt has a first step
    const numBlocks = savings.blocks / savings.passes;
    expect(savings.skipped).toBe(savings.cutPasses * (numBlocks - 1));
    const [x, y] = [cached.latents[0], plain.latents[0]] as [Float32Array, Float32Array];
    const norm = (values: Float32Array): number => Math.hypot(...values);
    const wanted = norm(x.map((value, i) => value - (y[i] as number))) / norm(y);
    expect(wanted).toBeGreaterThan(1e-3);
    const [drift] = savings.drift as NonNullable<Savings["drift"]>;
    expect(drift?.latents).toBeCloseTo(wanted, 5);
    expect(drift?.psnr).toBeLessThan(60);
    expect(savings.motionKept).toBeCloseTo((drift?.motion as number) / (drift?.plainMotion as number), 10);
    expect(savings).toMatchObject({
      measuredSpeedup: expect.any(Number),
      wholePassMs: expect.any(Number),
      cutPassMs: expect.any(Number),
    });
    expect(savings.note).toBeUndefined();
  });

  test("measured at threshold 0, nothing is lost", async () => {
    const { cache } = await alone({ ...of(), cache: { id: "first-block", threshold: 0, measure: true } });
    expect(cache?.drift).toEqual([expect.objectContaining({ sample: 0, latents: 0, psnr: null })]);
    expect(cache?.motionKept).toBe(1);
  });
});

test.each([
  { id: "first-block", threshold: 0.5 },
  { id: "taylor", whole: 1 },
])("$id: samples of a batch are those that each would be alone", async (cache) => {
  const prompts = ["a ball", "two blue squares on a long grey road"];
  const together = await alone({ ...request, prompt: prompts, batchSize: 2, cache });
  for (const [i, prompt] of prompts.entries()) {
    const single = await alone({ ...request, prompt, cache });
    expect(single.cache?.skipped).toBeGreaterThan(0);
    expect(distance(together.latents[i] as Float32Array, single.latents[0] as Float32Array)).toBeLessThan(1e-4);
  }
});

test("of two denoisers each begins with a whole pass", async () => {
  const model = twoDenoisers(wan, join(scratch, "two"));
  const { cache } = await alone({ ...request, model, cache: { id: "first-block", threshold: HUGE } });
  expect(cache).toMatchObject({ passes: 2 * NUM_STEPS, cutPasses: 2 * (NUM_STEPS - 2) });
  // each runs in its first step, then all but the third is extrapolated
  const taylor = await alone({ ...request, model, cache: { id: "taylor", whole: 1, interval: 100 } });
  expect(taylor.cache).toMatchObject({ passes: 2 * NUM_STEPS, cutPasses: 2 * (NUM_STEPS - 4) });
});

test("a guide that asks several times in a step gets an answer to each", async () => {
  const twice = provide("guide", {
    id: "twice",
    summary: "asks for the same prompt twice",
    runs: "device",
    options: z.strictObject({}),
    traits: {},
    run:
      async (): Promise<Guide> =>
      ({ predict }) =>
        predict("positive").add(predict("positive")).div(2),
  });
  await using ctx = await open({ provide: [twice] });
  const { cache } = await run(ctx, {
    ...request,
    guide: { id: "twice" },
    cache: { id: "first-block", threshold: HUGE },
  });
  // the second call of the first step is not an answer from the first
  expect(cache).toMatchObject({
    passes: 2 * NUM_STEPS,
    cutPasses: 2 * (NUM_STEPS - 1),
    skipped: 2 * (NUM_STEPS - 1) * (WAN_BLOCKS - 1),
  });
});

test.each([
  { id: "first-block", threshold: 0.4 },
  { id: "taylor", order: 2 },
])("$id: a killed job goes on with what its cache remembered", async (cache) => {
  const numSteps = 24;
  const input = { ...request, numSteps, guide: { id: "slow" }, cache };
  const home = join(scratch, `killed-${cache.id}`);
  {
    await using ctx = await open({ home, provide: [slowGuide((step) => void (step === 18 && ctx.cancel()), 3)] });
    expect(await run(ctx, input).catch((error: WaverError) => error.code)).toBe("cancelled");
  }
  const steps: number[] = [];
  await using again = await open({ home, provide: [slowGuide((step) => void steps.push(step), 3)] });
  const resumed = await run(again, input);
  expect(steps[0]).toBeGreaterThan(0);
  await using whole = await open({ provide: [slowGuide(() => undefined, 3)] });
  const uninterrupted = await run(whole, input);
  expect(resumed.items[0]?.digest).toBe(uninterrupted.items[0]?.digest as string);
  const counted = ({ blocks, skipped, passes, cutPasses }: Savings) => ({ blocks, skipped, passes, cutPasses });
  expect(counted(resumed.cache as Savings)).toEqual(counted(uninterrupted.cache as Savings));
  expect(resumed.cache?.cutPasses).toBeGreaterThan(0);
  expect(resumed.cache?.cutPasses).toBeLessThan(3 * (numSteps - 1));
});

test("the recipe names the cache", async () => {
  await using ctx = await open();
  const { items } = await run(ctx, { ...request, metadata: true, cache: { id: "first-block", threshold: 0.05 } });
  expect(await ctx.media.readMetadata(items[0]?.path as string)).toMatchObject({
    cache: { id: "first-block", threshold: 0.05 },
  });
});

test("what ranks would have to agree on is refused on several, naming what is not", async () => {
  await using ctx = await open();
  const refused = run(ctx, { ...request, ranks: 2, cache: { id: "first-block" } });
  expect(await refused.catch(({ code, message, hint }: WaverError) => [code, message, hint])).toEqual([
    "invalid_input",
    expect.stringContaining("cache first-block works on one rank only"),
    expect.stringContaining("use cache taylor"),
  ]);
});
