// What comes after training: merging its snapshots, and refining a video with a trained refiner.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint, openSafetensors, scope, setThreads } from "../../native/index.ts";
import type { WaverError } from "../../plugins/index.ts";
import { makeClip } from "../../test/support/clips.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { TINY_NETWORK, TINY_REFINER, TINY_TEXT, tinySet, tinyVae } from "../../test/support/tiny-model.ts";
import { merge } from "./merge.ts";
import { refine } from "./refine.ts";
import { train } from "./train.ts";

setThreads(1);
const scratch = mkdtempSync(join(tmpdir(), "after-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const plugins = ["t5", "wan-vae", "waver", "flow", "stage-flow", "stage-refine", "merge", "storage-local"];
const home = join(scratch, "store-home");
const open = (): Promise<TestContext> => testContext({ plugins });

let snapshots: { path: string; digest: string }[];
const [model, refined] = [join(scratch, "model"), join(scratch, "with-refiner")];
beforeAll(async () => {
  const set = await tinySet(join(scratch, "set"));
  const common = {
    set,
    video: { sizes: [{ width: 32, height: 32 }], frames: 9, fps: 8 },
    batch: 2,
    lr: 3e-3,
    keepSnapshots: 0,
  };
  await using ctx = await testContext({ plugins, home });
  const result = (await runOperation(
    train,
    {
      ...{ ...common, output: model, steps: 6, keepSnapshots: 3, snapshotEvery: 1, trainText: true },
      ...{
        codec: { id: "wan-vae", path: await tinyVae(join(scratch, "vae")) },
        encodeText: TINY_TEXT,
        family: TINY_NETWORK,
      },
    },
    ctx,
  )) as { snapshots: typeof snapshots };
  snapshots = result.snapshots;
  await using next = await open();
  await runOperation(
    train,
    {
      ...common,
      model,
      output: refined,
      component: "refiner",
      family: TINY_REFINER,
      objective: { id: "refine", factor: 2 },
      steps: 2,
    },
    next,
  );
}, 120_000);

test("merging averages what was trained and leaves the rest", async () => {
  await using ctx = await testContext({ plugins, home });
  rmSync(join(ctx.workDir, "result"), { recursive: true });
  const output = join(scratch, "merged");
  const result = await runOperation(merge, { checkpoints: snapshots.map((each) => each.digest), output }, ctx);
  expect(result).toMatchObject({ path: output, merged: ["text_encoder", "transformer"] });
  const weight = (folder: string): Float32Array => {
    using file = openCheckpoint(join(folder, "transformer"));
    return scope(() => file.get("dual.0.video.qkv.weight").toFloat32Array());
  };
  const all = snapshots.map(({ path }) => weight(path));
  const errors = weight(output).map((value, i) => Math.abs(value - all.reduce((sum, each) => sum + each[i]!, 0) / 3));
  expect(Math.max(...errors)).toBeLessThan(1e-5);
  expect(readdirSync(output).sort()).toEqual(readdirSync(model).sort());
  expect(
    (await ctx.store.lineage((result as { digest: never }).digest))?.inputs.map((each) => each.digest as string),
  ).toEqual(snapshots.map((each) => each.digest));
}, 60_000);

test("refining doubles a video, keeps its frames, and gives the same again", async () => {
  const video = await makeClip(join(scratch, "clip.mp4"), [{ source: "testsrc2=s=30x22:r=8", seconds: 1.25 }], {
    size: "30x22",
    fps: 8,
  });
  await using ctx = await open();
  const output = join(scratch, "large.mp4");
  const request = { video, model: refined, prompt: "bars move", numSteps: 3, output, keepLatents: true };
  // 30x22 doubled is 60x44, which latents of 8 do not divide: padded, then cropped
  const result = (await runOperation(refine, request, ctx)) as { latents: string };
  using latents = openSafetensors(result.latents);
  expect(latents.info("latents").shape).toEqual([1, 4, 4, 6, 8]);
  expect(result).toMatchObject({
    path: output,
    width: 60,
    height: 44,
    numFrames: 10,
  });
  expect(await ctx.media.probe(output)).toMatchObject({ width: 60, height: 44, numFrames: 10, fps: 8 });
  expect(await ctx.media.readMetadata(output)).toMatchObject({ refined: { prompt: "bars move", numSteps: 3 } });
  expect(existsSync(join(ctx.workDir, "refining.safetensors"))).toBe(false);

  await using again = await open();
  // with the weights of its blocks in the file between their turns
  await runOperation(refine, { ...request, offload: "blocks", output: join(scratch, "again.mp4") }, again);
  expect(readFileSync(join(scratch, "again.mp4"))).toEqual(readFileSync(output));

  await using narrow = await open();
  const eight = { ...request, weights: "int8", output: join(scratch, "eight.mp4") };
  using near = openSafetensors(((await runOperation(refine, eight, narrow)) as { latents: string }).latents);
  const [want, got] = scope(() =>
    [latents, near].map((file) => file.get("latents").toFloat32Array()),
  ) as Float32Array[];
  const power = (of: (value: number, i: number) => number): number =>
    (want as Float32Array).reduce((sum, value, i) => sum + of(value, i) ** 2, 0);
  const noise = power((value, i) => value - (got?.[i] as number));
  expect(noise).toBeGreaterThan(0);
  // a layer's rounding is 40 dB and more below its output
  expect(10 * Math.log10(power((value) => value) / noise)).toBeGreaterThan(35);
  expect(await narrow.media.readMetadata(eight.output)).toMatchObject({ refined: { weights: "int8" } });
}, 60_000);

test("what is wrong is said in a sentence", async () => {
  await using ctx = await open();
  const failure = async (
    operation: Parameters<typeof runOperation>[0],
    input: Record<string, unknown>,
  ): Promise<WaverError> => (await runOperation(operation, input, ctx).catch((error: unknown) => error)) as WaverError;
  const video = join(scratch, "set/0.mp4");
  expect(await failure(refine, { video, model })).toMatchObject({
    code: "checkpoint_missing",
    message: expect.stringMatching(/has no refiner/),
  });
  expect(await failure(refine, { video: join(scratch, "none.mp4"), model: refined })).toMatchObject({
    code: "media_missing",
  });
  expect(await failure(refine, { video, model: refined, scale: 9 })).toMatchObject({ code: "invalid_input" });
  expect((await failure(refine, { video, model: refined, weights: "fp8", offload: "blocks" })).message).toContain(
    "weights that come and go are read as they are stored, not in fp8",
  );
  expect(
    await failure(merge, { checkpoints: [model, join(scratch, "none")], output: join(scratch, "x") }),
  ).toMatchObject({ code: "checkpoint_missing" });
  expect(await failure(merge, { checkpoints: [model, model], output: model })).toMatchObject({ code: "conflict" });
});
