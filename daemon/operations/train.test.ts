import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setThreads } from "../../native/index.ts";
import { provide, WaverError, type z } from "../../plugins/index.ts";
import { FlowObjective } from "../../plugins/stage-flow/objective.ts";
import { FlowOptions } from "../../plugins/stage-flow/options.ts";
import { runOperation, type TestContext, type TestContextOptions, testContext } from "../../test/support/context.ts";
import { TINY_NETWORK, TINY_REFINER, TINY_TEXT, tinySet, tinyVae } from "../../test/support/tiny-model.ts";
import { type TrainOutput, train } from "./train.ts";

setThreads(1);
const scratch = mkdtempSync(join(tmpdir(), "train-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const plugins = ["t5", "wan-vae", "waver", "flow", "stage-flow", "stage-refine", "storage-local"];
const open = (more: TestContextOptions = {}): Promise<TestContext> => testContext({ plugins, ...more });
type Output = z.output<typeof TrainOutput>;
const run = async (ctx: TestContext, input: Record<string, unknown>): Promise<Output> =>
  (await runOperation(train, input, ctx)) as Output;

let request: Record<string, unknown>;
beforeAll(async () => {
  request = {
    set: await tinySet(join(scratch, "set")),
    codec: { id: "wan-vae", path: await tinyVae(join(scratch, "vae")) },
    encodeText: TINY_TEXT,
    family: TINY_NETWORK,
    objective: { id: "flow", firstFrame: 0.5 },
    video: { sizes: [{ width: 32, height: 32 }], frames: 9, fps: 8 },
    image: { sizes: [{ width: 32, height: 32 }] },
    ...{
      imageShare: 0.3,
      trainText: true,
      steps: 12,
      batch: 2,
      lr: 3e-3,
      warmup: 2,
      schedule: "cosine",
      ema: 0.9,
      checkpointEvery: 4,
      keepSnapshots: 2,
      snapshotEvery: 3,
    },
  };
});

/** The flow objective under another id, whose step `at` does something else. */
const faulty = (at: number, fault: () => void) =>
  provide("objective", {
    id: "faulty",
    summary: "the flow objective with a fault",
    runs: "device",
    options: FlowOptions,
    traits: { tasks: ["t2v"], fields: [] },
    run: async (input, { options }) => {
      const objective = new FlowObjective(input, options);
      const step = objective.step.bind(objective);
      objective.step = (batch, moment) => {
        if (moment.step === at) fault();
        return step(batch, moment);
      };
      return objective;
    },
  });
const never = faulty(-1, () => undefined);

/** Everything that a resumed run must have in common with a straight one. */
function state(ctx: TestContext): unknown {
  const points = readdirSync(join(ctx.workDir, "checkpoints")).sort();
  const newest = JSON.parse(
    readFileSync(join(ctx.workDir, "checkpoints", points.at(-1)!, "manifest.json"), "utf8"),
  ) as { step: number; files: unknown };
  return { step: newest.step, files: newest.files, losses: readFileSync(join(ctx.workDir, "loss.jsonl"), "utf8") };
}

describe("train", () => {
  test("a stage from fresh weights ends in a pipeline, with snapshots and lineage", async () => {
    await using ctx = await open();
    const output = join(scratch, "first");
    const result = await run(ctx, { ...request, output });
    expect(result).toMatchObject({ path: output, steps: 12, numClips: 3 });
    expect(result.snapshots.map((each) => each.step)).toEqual([9, 12]);
    const index = JSON.parse(readFileSync(join(output, "model_index.json"), "utf8"));
    expect(index).toMatchObject({
      // a network of its own captions alone knows no words for what to keep away from
      _waver: { defaults: { width: 32, height: 32, numFrames: 9, fps: 8 }, negativePrompt: "" },
      transformer: ["diffusers", "WaverTransformer3DModel"],
      vae: ["diffusers", "AutoencoderKLWan"],
      text_encoder: ["transformers", "T5EncoderModel"],
      scheduler: ["diffusers", "WaverFlowScheduler"],
    });
    expect(readdirSync(join(output, "transformer")).sort()).toEqual([
      "config.json",
      "diffusion_pytorch_model.safetensors",
    ]);
    expect(existsSync(join(output, "tokenizer/tokenizer.json"))).toBe(true);
    expect(await ctx.store.lineage(result.digest)).toMatchObject({ kind: "model", by: { operation: "train" } });
    const log = readFileSync(result.lossLog, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(log.map((each) => each.step)).toEqual(Array.from({ length: 12 }, (_, i) => i));
    expect(log.filter((each) => each.task === "t2i")).toHaveLength(3);
    // the last two resume points stay
    expect(readdirSync(join(ctx.workDir, "checkpoints")).sort()).toEqual(["step-00000008", "step-00000012"]);
  }, 60_000);

  test("a run that was killed or cancelled goes on to the very same weights", async () => {
    const changed = { ...request, objective: { id: "faulty", firstFrame: 0.5 }, steps: 40 };
    const weights = (output: string): Buffer =>
      readFileSync(join(output, "transformer/diffusion_pytorch_model.safetensors"));
    await using straight = await open({ provide: [never] });
    const whole = await run(straight, { ...changed, output: join(scratch, "straight") });

    const home = join(scratch, "home-cancel");
    {
      let ctx: TestContext | undefined;
      await using first = await open({ home, provide: [faulty(6, () => ctx?.cancel())] });
      ctx = first;
      const error = await run(first, { ...changed, output: join(scratch, "cancel") }).catch(
        (thrown: unknown) => thrown,
      );
      expect((error as WaverError).code).toBe("cancelled");
      // it stopped within a step and left that step
      expect(readdirSync(join(first.workDir, "checkpoints")).sort().at(-1)).toBe("step-00000007");
    }
    await using second = await open({ home, provide: [never] });
    const resumed = await run(second, { ...changed, output: join(scratch, "cancel") });
    expect(second.logged.find(({ event }) => event === "training_resumed")?.fields).toEqual({ step: 7 });
    expect(state(second)).toEqual(state(straight));
    expect([resumed.firstLoss, resumed.lastLoss]).toEqual([whole.firstLoss, whole.lastLoss]);
    expect(weights(join(scratch, "cancel"))).toEqual(weights(join(scratch, "straight")));

    const plain = { ...changed, objective: request["objective"], output: join(scratch, "killed") };
    const killed = join(scratch, "home-killed");
    const child = Bun.spawn(
      [
        process.execPath,
        join(import.meta.dir, "../../test/support/train-child.ts"),
        killed,
        plugins.join(),
        JSON.stringify(plain),
      ],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    const log = join(killed, "work/loss.jsonl");
    while (child.exitCode === null && (!existsSync(log) || readFileSync(log, "utf8").split("\n").length < 7))
      await Bun.sleep(20);
    child.kill("SIGKILL");
    await child.exited;
    expect(child.signalCode).toBe("SIGKILL");
    await using third = await open({ home: killed });
    await run(third, plain);
    expect(third.logged.map(({ event }) => event)).toContain("training_resumed");
    expect(state(third)).toMatchObject({ losses: (state(straight) as { losses: string }).losses });
    expect(weights(join(scratch, "killed"))).toEqual(weights(join(scratch, "straight")));
  }, 120_000);

  test("a damaged resume point is passed over for the one before, and none at all is an error", async () => {
    const home = join(scratch, "damaged");
    const output = join(scratch, "damaged-out");
    const bad = { ...request, objective: { id: "faulty", firstFrame: 0.5 }, output };
    const stop = faulty(9, () => {
      throw new WaverError("plugin_failed", "a fault");
    });
    const points = join(home, "work/checkpoints");
    const spoil = (name: string): void => {
      const path = join(points, name, "weights.safetensors");
      const bytes = readFileSync(path);
      bytes[bytes.length - 1]! ^= 1;
      writeFileSync(path, bytes);
    };
    {
      await using ctx = await open({ home, provide: [stop] });
      await run(ctx, bad).catch(() => undefined);
    }
    spoil("step-00000008");
    {
      await using ctx = await open({ home, provide: [stop] });
      await run(ctx, bad).catch(() => undefined);
      expect(ctx.logged.find(({ event }) => event === "resume_point_damaged")?.fields).toMatchObject({
        reason: expect.stringMatching(/weights.safetensors has changed/),
      });
      expect(ctx.logged.find(({ event }) => event === "training_resumed")?.fields).toEqual({ step: 4 });
    }
    for (const name of readdirSync(points)) spoil(name);
    await using ctx = await open({ home, provide: [stop] });
    expect(((await run(ctx, bad).catch((error: unknown) => error)) as WaverError).code).toBe("checkpoint_invalid");
  }, 60_000);

  test("a refiner starts from its generator and trains on degraded twins", async () => {
    await using ctx = await open();
    const model = join(scratch, "parent");
    await run(ctx, { ...request, output: model, steps: 1, keepSnapshots: 0 });
    await using next = await open();
    const output = join(scratch, "refined");
    const { encodeText: _, codec: __, ...rest } = request;
    const result = await run(next, {
      ...rest,
      model,
      output,
      component: "refiner",
      family: TINY_REFINER,
      objective: { id: "refine", factor: 2, scaleWd: true },
      image: null,
      trainText: false,
      steps: 3,
    });
    expect(result.lastLoss).toBeGreaterThan(0);
    expect(JSON.parse(readFileSync(join(output, "refiner/config.json"), "utf8")).window).toMatchObject({
      kind: "count",
    });
    expect(readFileSync(join(output, "transformer/diffusion_pytorch_model.safetensors"))).toEqual(
      readFileSync(join(model, "transformer/diffusion_pytorch_model.safetensors")),
    );
    expect(JSON.parse(readFileSync(join(output, "model_index.json"), "utf8")).refiner).toEqual([
      "diffusers",
      "WaverTransformer3DModel",
    ]);
  }, 60_000);

  test("what is wrong is said in a sentence", async () => {
    const poisoned = provide("objective", {
      id: "poisoned",
      summary: "never a number",
      runs: "device",
      options: FlowOptions,
      traits: { tasks: ["t2v"], fields: [] },
      run: async (input, { options }) => {
        const objective = new FlowObjective(input, options);
        const step = objective.step.bind(objective);
        objective.step = (batch, moment) => ({
          ...step(batch, moment),
          loss: step(batch, moment).loss.mul(Number.NaN),
        });
        return objective;
      },
    });
    const failure = async (input: Record<string, unknown>, more: TestContextOptions = {}): Promise<WaverError> => {
      await using ctx = await open(more);
      const error: unknown = await run(ctx, { ...request, output: join(scratch, "never"), ...input }).catch(
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(WaverError);
      return error as WaverError;
    };
    expect(await failure({ objective: { id: "poisoned" } }, { provide: [poisoned] })).toMatchObject({
      code: "numeric_invalid",
      message: expect.stringMatching(/8 steps in a row/),
    });
    expect(await failure({ set: join(scratch, "no-set") })).toMatchObject({ code: "not_found" });
    expect(await failure({ model: scratch })).toMatchObject({ code: "checkpoint_missing" });
    expect(await failure({ output: scratch })).toMatchObject({ code: "conflict" });
    expect(await failure({ family: undefined })).toMatchObject({
      code: "needs_unmet",
      message: expect.stringMatching(/no transformer/),
    });
    expect(await failure({ component: "refiner", objective: { id: "refine" }, trainText: false })).toMatchObject({
      code: "needs_unmet",
      message: expect.stringMatching(/degraded to clean/),
    });
    expect(existsSync(join(scratch, "never"))).toBe(false);
  }, 60_000);
});
