import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { countedFlops, liveTensors, noGrad, outlinedBytes, scope, setThreads, zeros } from "../../native/index.ts";
import { type Context, type Denoiser, provide, z } from "../../plugins/index.ts";
import { runOperation, testContext } from "../../test/support/context.ts";
import { generate } from "../operations/generate.ts";
import { operations } from "../operations/plan.ts";
import type { Plan } from "./figures.ts";
import type { StageCost } from "./meter.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "storage-local"];
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const scratch = mkdtempSync(join(tmpdir(), "plan-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const request = { model, prompt: "a ball", width: 48, height: 32, numFrames: 9, numSteps: 4, maxTokens: 64 };
const planOf = async (input: Record<string, unknown>, more = {}): Promise<Plan> => {
  await using ctx = await testContext({ plugins, ...more });
  return (await runOperation(operations["plan-generate"], input, ctx)) as Plan;
};
const stage = (plan: Plan, name: string): Plan["stages"][number] =>
  plan.stages.find((each) => each.stage === name) as Plan["stages"][number];

test("FLOPs of a plan are those that the networks then do", async () => {
  const plan = await planOf(request);
  await using ctx = await testContext({ plugins });
  const family: Denoiser = await (await ctx.use("family", "wan", { path: join(model, "transformer") }))({});
  const codec = await (await ctx.use("codec", "wan-vae", { path: join(model, "vae") }))({});
  // conditional and unconditional, four steps; what becomes of a prompt is remembered with it
  const denoising = scope(() =>
    noGrad(() => {
      const texts = [0, 1].map(() => ({ states: zeros([1, 64, 24]), mask: zeros([1, 64]).eq(0) }));
      const input = { latents: zeros([1, 16, 3, 4, 6]), t: zeros([1], { dtype: "float64" }) };
      const steps = [0, 1, 2, 3].flatMap(() => texts.map((text) => ({ ...input, text })));
      return countedFlops(() => void steps.map((each) => family.forward(each))).flops;
    }),
  );
  expect(stage(plan, "denoise")).toMatchObject({ passes: 8, flops: denoising });
  const decoding = scope(() => noGrad(() => countedFlops(() => void codec.decode(zeros([1, 16, 3, 4, 6]))).flops));
  expect(stage(plan, "decode")).toMatchObject({ passes: 1, flops: decoding });
  expect(plan.flops).toBe(plan.stages.reduce((sum, { flops }) => sum + flops, 0));
  expect(Object.keys(plan.rates)).toContain("product float32 GFLOP/s");
});

test("what costs nothing or twice is planned so", async () => {
  const [plain, guided, batched, longer] = [
    await planOf({ ...request, guide: { id: "none" } }),
    await planOf(request),
    await planOf({ ...request, seed: [1, 2], batchSize: 2 }),
    await planOf({ ...request, numFrames: 17 }),
  ];
  const flops = (plan: Plan): number => stage(plan, "denoise").flops;
  expect(flops(guided)).toBe(2 * flops(plain));
  // two samples in one pass
  expect(flops(batched)).toBe(2 * flops(guided));
  expect(stage(batched, "denoise")).toMatchObject({ passes: 8 });
  expect(batched.samples).toBe(2);
  expect(stage(longer, "denoise").peakBytes).toBeGreaterThan(stage(guided, "denoise").peakBytes);
  expect(guided.leastBytes).toBeLessThan(guided.peakBytes);
});

test("a model of which only the configuration is here is planned as well", async () => {
  const bare = join(scratch, "configurations");
  cpSync(model, bare, { recursive: true, filter: (path) => !path.endsWith(".safetensors") });
  const [here, planned] = [await planOf(request), await planOf({ ...request, model: bare, dtype: "float32" })];
  expect(planned.stages.map(({ stage, flops, weightBytes }) => [stage, flops, weightBytes])).toEqual(
    here.stages.map(({ stage, flops, weightBytes }) => [stage, flops, weightBytes]),
  );
  await using ctx = await testContext({ plugins });
  await expect(runOperation(generate, { ...request, model: bare }, ctx)).rejects.toMatchObject({
    code: "checkpoint_missing",
  });
});

test("a plan reads no weights, leaves nothing behind, and is refused where the request is wrong", async () => {
  const [tensors, bytes] = [liveTensors(), outlinedBytes()];
  const bare = join(scratch, "bare");
  cpSync(model, bare, { recursive: true });
  const first = await planOf(request);
  expect((await planOf({ ...request, model: bare })).flops).toBe(first.flops);
  await expect(planOf({ ...request, numFrames: 8 })).rejects.toMatchObject({ code: "invalid_input" });
  expect([liveTensors(), outlinedBytes()]).toEqual([tensors, bytes]);
});

test("a run says what was planned and what it took; memory is as planned", async () => {
  await using ctx = await testContext({ plugins });
  const run = async (job: string): Promise<StageCost[]> => {
    const workDir = join(ctx.workDir, job);
    mkdirSync(workDir, { recursive: true });
    const own = {
      ...ctx,
      workDir,
      unit: ((key, schema, work) => ctx.unit(`${job} ${key}`, schema, work)) as Context["unit"],
    };
    return ((await runOperation(generate, request, own)) as { cost: StageCost[] }).cost;
  };
  await run("cold"); // weights are packed at their first use
  const cost = await run("warm");
  expect(cost.map(({ stage }) => stage)).toEqual(["text", "denoise", "decode"]);
  for (const each of cost) {
    expect(each.seconds).toBeGreaterThan(0);
    expect(each.predictedSeconds).toBeGreaterThan(0);
  }
  const denoise = cost[1] as Required<StageCost>;
  expect(Math.abs(denoise.peakBytes - denoise.predictedPeakBytes) / denoise.peakBytes).toBeLessThan(0.1);
  const decode = cost[2] as Required<StageCost>;
  expect(Math.abs(decode.peakBytes - decode.predictedPeakBytes) / decode.peakBytes).toBeLessThan(0.02);
  expect(ctx.logged.map(({ event }) => event)).toContain("planned");
  // once a job: an earlier attempt's figures are those of the result
  expect(await run("warm")).toEqual(cost);
});

test("memory that sampler and guide take is planned", async () => {
  const more = { plugins: [...plugins, "guide-apg"] };
  await using ctx = await testContext(more);
  let runs = 0;
  for (const how of [
    { sampler: { id: "euler" } },
    { sampler: { id: "dpmpp" }, numSteps: 3 },
    { sampler: { id: "unipc" }, seed: [1, 2], batchSize: 2 },
    { sampler: { id: "unipc" }, guide: { id: "none" } },
    { sampler: { id: "unipc" }, guide: { id: "video-apg", momentum: -0.5 } },
    { numSteps: 1 },
  ]) {
    const workDir = join(ctx.workDir, `${runs++}`);
    mkdirSync(workDir);
    const unit = ((key, schema, work) => ctx.unit(`${workDir} ${key}`, schema, work)) as Context["unit"];
    const { cost } = (await runOperation(generate, { ...request, ...how }, { ...ctx, workDir, unit })) as {
      cost: StageCost[];
    };
    const { peakBytes, predictedPeakBytes } = cost[1] as Required<StageCost>;
    expect(Math.abs(predictedPeakBytes / peakBytes - 1)).toBeLessThan(0.1); // texts and noise are there before the measure starts
  }
});

test("memory that a cache takes is planned", async () => {
  const cache = { id: "first-block" };
  const [plain, cached] = [
    stage(await planOf(request), "denoise"),
    stage(await planOf({ ...request, cache }, { plugins: [...plugins, "cache-first-block"] }), "denoise"),
  ];
  // what the first block and what the others added, for both prompts: 3 x 2 x 3 tokens of width 40
  const added = 2 * 2 * (3 * 2 * 3 * 40 * 4);
  const more = cached.peakBytes - plain.peakBytes;
  expect(more).toBeGreaterThanOrEqual(added);
  expect(more).toBeLessThan(2 * added); // and what a pass makes before the old can go
  // which blocks it will leave out is not known before
  expect([cached.flops, cached.passes]).toEqual([plain.flops, plain.passes]);
});

test("a component that cannot be planned is named, and a run with it goes on without a plan", async () => {
  const stubborn = provide("family", {
    id: "wan",
    summary: "loads as it is only",
    runs: "device",
    options: z.looseObject({ path: z.string() }),
    traits: { classes: ["WanTransformer3DModel"], tasks: ["t2v"], trainable: false },
    run: async (_input, { options: { path }, ctx }) => {
      const { WanDenoiser } = await import("../../plugins/wan/denoiser.ts");
      const loaded = WanDenoiser.load(path, { device: ctx.device });
      opened.push(loaded);
      return loaded;
    },
  });
  const opened: Denoiser[] = [];
  await expect(planOf(request, { provide: [stubborn] })).rejects.toMatchObject({
    code: "needs_unmet",
    message: expect.stringContaining("wan of family cannot be planned"),
  });
  await using ctx = await testContext({ plugins, provide: [stubborn] });
  const { cost } = (await runOperation(generate, request, ctx)) as { cost: StageCost[] };
  for (const each of opened) await each[Symbol.asyncDispose]();
  expect(cost.map((each) => [each.stage, each.predictedSeconds])).toEqual([
    ["text", undefined],
    ["denoise", undefined],
    ["decode", undefined],
  ]);
  expect(ctx.logged.map(({ event }) => event)).toContain("plan_failed");
});
