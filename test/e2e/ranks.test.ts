/** `generate` and `refine` on several ranks, through a real daemon: the same latents as on one, from one seed; where they listen; what does not fit. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { Generator, openSafetensors, randn, saveSafetensors, scope } from "../../native/index.ts";
import { makeClip } from "../support/clips.ts";
import { RankDaemon } from "../support/rank-daemon.ts";
import { LOOPBACK_IN_PROC, listening } from "../support/ranks.ts";

let daemon: RankDaemon;
beforeAll(async () => {
  daemon = await RankDaemon.open();
});
afterAll(() => daemon[Symbol.asyncDispose]());

/** |a - b| / |b| */
const distance = (a: Float32Array, b: Float32Array): number =>
  Math.hypot(...a.map((x, i) => x - (b[i] as number))) / Math.hypot(...b);
/** What other kernels of the reference change in a whole pipeline's result, times 16 (golden/README.md, Tolerance; its `pipeline_wan_*`, `waver_sampling`). */
const FLOAT32 = 1e-4;

describe.each(["wan", "waver"] as const)("%s: the latents of one rank", (family) => {
  let alone: Float32Array;
  beforeAll(async () => {
    alone = await daemon.generated(family);
  });

  test.each([
    ["2 ranks, Ulysses", { ranks: 2, parallel: { attention: "ulysses" } }],
    ["2 ranks, Ring", { ranks: 2, parallel: "ring" }],
    ["4 ranks: both", { ranks: 4 }],
    ["4 ranks: both prompts side by side, each on 2", { ranks: 4, parallel: { replicas: 2 } }],
    ["2 ranks with half of the weights each", { ranks: 2, parallel: { shardWeights: true } }],
  ])("%s", async (_, more) => {
    const spread = await daemon.generated(family, more);
    expect(spread.length).toBe(alone.length);
    expect(distance(spread, alone)).toBeLessThanOrEqual(FLOAT32);
  });

  test("two replicas give it to the bit: whole passes are only placed elsewhere", async () => {
    expect(await daemon.generated(family, { ranks: 2, parallel: { replicas: 2 } })).toEqual(alone);
  });

  test("weights that come and go on every rank change no number", async () => {
    expect(await daemon.generated(family, { offload: "blocks" })).toEqual(alone);
    expect(await daemon.generated(family, { ranks: 2, parallel: "cfg", offload: "blocks" })).toEqual(alone);
  });
});

test.each(["int8", "fp8"] as const)("weights in %s are those of one rank, also in parts", async (weights) => {
  const alone = await daemon.generated("wan", { weights });
  expect(distance(alone, await daemon.generated("wan"))).toBeGreaterThan(1e-3);
  for (const parallel of [{ attention: "ulysses" }, { shardWeights: true }])
    expect(distance(await daemon.generated("wan", { weights, ranks: 2, parallel }), alone)).toBeLessThanOrEqual(
      FLOAT32,
    );
  expect(await daemon.generated("wan", { weights, ranks: 2, parallel: "cfg" })).toEqual(alone);
});

test("a batch on two replicas without guidance: rows side by side, and the seeds' own noise", async () => {
  const more = { numSamples: 2, batchSize: 2, guide: { id: "none" } };
  const alone = await daemon.generated("waver", more);
  const spread = await daemon.generated("waver", { ...more, ranks: 2, parallel: { replicas: 2 } });
  // one row a pass instead of two: other kernels
  expect(distance(spread, alone)).toBeLessThanOrEqual(FLOAT32);
});

test("a refiner on two ranks, windows and all", async () => {
  const [clip, model] = [join(daemon.home, "clip.mp4"), await daemon.withRefiner()];
  const video = await makeClip(clip, [{ source: "testsrc2=s=32x32:r=8", seconds: 0.625 }], { size: "32x32", fps: 8 });
  const refined = async (more: object): Promise<Float32Array> => {
    const request = { video, model, prompt: "bars move", numSteps: 2, wd: 0.5, keepLatents: true, ...more };
    const job = await daemon.client.submit("refine", request).then(({ id }) => daemon.client.wait(id));
    using file = openSafetensors((job.output as { latents: string }).latents);
    return scope(() => file.get("latents").toFloat32Array());
  };
  const alone = await refined({});
  for (const parallel of ["ulysses", "ring"])
    expect(distance(await refined({ ranks: 2, parallel }), alone)).toBeLessThanOrEqual(FLOAT32);
  expect(daemon.ranks()).toHaveLength(2);
  await expect(refined({ ranks: 3, parallel: "cfg" })).rejects.toThrow(/3 ranks do not divide/);
});

/** On one layer, under the name that it has in the authors' repository; 40 is the width of the golden pipeline. */
function lora(name: string, seed: number, layer: string): string {
  const path = join(daemon.home, `${name}.safetensors`);
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
  const without = await daemon.generated("wan", { seed: 3 });
  const alone = await daemon.generated("wan", { seed: 3, lora: specs });
  expect(distance(alone, without)).toBeGreaterThan(0.01);
  const spread = { seed: 3, ranks: 2 };
  expect(distance(await daemon.generated("wan", { ...spread, lora: specs }), alone)).toBeLessThanOrEqual(FLOAT32);
  expect(distance(await daemon.generated("wan", spread), without)).toBeLessThanOrEqual(FLOAT32);
  const replicas = { ...spread, parallel: { replicas: 2 } };
  expect(await daemon.generated("wan", { ...replicas, lora: specs })).toEqual(alone);
});

test("what a network says is extrapolated from the same steps on any number of ranks", async () => {
  const cached = { seed: 5, cache: { id: "taylor", whole: 1 } };
  const alone = await daemon.generated("waver", cached);
  expect(distance(alone, await daemon.generated("waver", { seed: 5 }))).toBeGreaterThan(1e-3);
  expect(distance(await daemon.generated("waver", { ...cached, ranks: 2 }), alone)).toBeLessThanOrEqual(FLOAT32);
  const replicas = { ranks: 2, parallel: { replicas: 2 } };
  expect(await daemon.generated("waver", { ...cached, ...replicas })).toEqual(alone);
});

test("every rank listens on loopback only (reliability.md S5)", async () => {
  await daemon.generated("wan", { ranks: 2, seed: 8 });
  const ranks = daemon.ranks();
  expect(ranks.length).toBe(2);
  for (const { pid } of ranks) expect([...new Set(listening(pid))]).toEqual([LOOPBACK_IN_PROC]);
});

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
  ["replicas", "wan", { ranks: 3, parallel: "cfg" }, "3 ranks do not divide into parallel.replicas 2"],
  ["one rank alone", "wan", { parallel: "ulysses" }, "there is one rank, which shares with nobody"],
  ["a way that there is not", "wan", { ranks: 2, parallel: "tensor" }, '"auto"|"ulysses"|"ring"|"cfg"'],
  ["more ranks than a machine has use for", "wan", { ranks: 1000 }, "ranks 1000 are more than the"],
  [
    "LoRA",
    "wan",
    { ranks: 2, parallel: { shardWeights: true }, lora: ["style.safetensors"] },
    "LoRA needs whole weights",
  ],
  [
    "weights in parts that also come and go",
    "wan",
    { ranks: 2, parallel: { shardWeights: true }, offload: "blocks" },
    "parallel.shardWeights already leaves a part of the weights on each rank",
  ],
] as const)("what does not fit is one sentence: %s", async (_, family, more, sentence) => {
  const failure = await daemon.client
    .submit("generate", daemon.body(family, more))
    .then(({ id }) => daemon.client.wait(id))
    .then(
      (job) => job.error,
      (error: unknown) => error as { code: string; message: string },
    );
  expect(failure).toMatchObject({ code: "invalid_input" });
  expect(failure?.message).toContain(sentence);
});
