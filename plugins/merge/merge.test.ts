import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, openCheckpoint, randn, saveSafetensors, scope } from "../../native/index.ts";
import { testContext } from "../../test/support/context.ts";

const scratch = mkdtempSync(join(tmpdir(), "average-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function checkpoint(seed: number, rows = 4): string {
  const path = join(scratch, `c${seed}-${rows}`);
  mkdirSync(path, { recursive: true });
  using generator = new Generator(seed);
  scope(() =>
    saveSafetensors(join(path, "diffusion_pytorch_model.safetensors"), {
      a: randn([rows, 3], { generator }),
      b: randn([5], { generator }).to("bfloat16"),
      c: randn([2, 2], { generator }),
    }),
  );
  writeFileSync(join(path, "config.json"), "{}");
  return path;
}
const values = (path: string): Record<string, number[]> => {
  using file = openCheckpoint(path);
  return scope(() =>
    Object.fromEntries(file.keys.map((key) => [key, file.get(key, { dtype: "float32" }).toNumbers()])),
  );
};

test("the mean of three, whole and in shards, which go on where they were", async () => {
  await using ctx = await testContext({ plugins: ["merge", "storage-local"] });
  const checkpoints = [1, 2, 3].map((seed) => ({ path: checkpoint(seed) }));
  const all = checkpoints.map(({ path }) => values(path));
  const expected = (key: string): number[] =>
    all[0]![key]!.map((_, i) => all.reduce((sum, each) => sum + each[key]![i]!, 0) / 3);
  const merge = await ctx.use("merge", "average");
  await merge({ checkpoints, output: join(scratch, "one") });
  expect(readdirSync(join(scratch, "one")).sort()).toEqual(["config.json", "diffusion_pytorch_model.safetensors"]);
  const one = values(join(scratch, "one"));
  for (const [key, tolerance] of Object.entries({ a: 1e-6, b: 0.01, c: 1e-6 })) {
    const errors = one[key]!.map((value, i) => Math.abs(value - expected(key)[i]!));
    expect(Math.max(...errors)).toBeLessThan(tolerance);
  }

  const sharded = await ctx.use("merge", "average", { shardBytes: 50 });
  await sharded({ checkpoints, output: join(scratch, "many") });
  expect(readdirSync(join(scratch, "many"))).toHaveLength(4);
  expect(values(join(scratch, "many"))).toEqual(one);
  const before = readFileSync(join(scratch, "many/diffusion_pytorch_model-00001-of-00002.safetensors"));
  await sharded({ checkpoints, output: join(scratch, "many") });
  expect(ctx.units.found).toHaveLength(2);
  expect(readFileSync(join(scratch, "many/diffusion_pytorch_model-00001-of-00002.safetensors"))).toEqual(before);
});

/** Merges checkpoints of seeds by a method; tensor a of the result, and of each. */
async function merged(
  id: string,
  seeds: readonly number[],
  options: Record<string, unknown> = {},
): Promise<{ a: number[]; of: number[][] }> {
  await using ctx = await testContext({ plugins: ["merge", "storage-local"] });
  const checkpoints = seeds.map((seed) => ({ path: checkpoint(seed) }));
  const output = mkdtempSync(join(scratch, "merged-"));
  await (await ctx.use("merge", id, options))({ checkpoints, output });
  return { a: values(output)["a"]!, of: checkpoints.map(({ path }) => values(path)["a"]!) };
}
const near = (a: readonly number[], b: readonly number[]): void =>
  expect(Math.max(...a.map((value, i) => Math.abs(value - b[i]!)))).toBeLessThan(1e-5);
const times = (...terms: [number, number[]][]): number[] =>
  terms[0]![1].map((_, i) => terms.reduce((sum, [weight, values]) => sum + weight * values[i]!, 0));

test("weights of an average are made to add up", async () => {
  const { a, of } = await merged("average", [1, 2], { weights: [3, 1] });
  near(a, times([0.75, of[0]!], [0.25, of[1]!]));
});

test("slerp ends at its ends and keeps the length of equally long weights", async () => {
  const start = await merged("slerp", [1, 2], { t: 0 });
  near(start.a, start.of[0]!);
  const half = await merged("slerp", [1, 2], { t: 0.5 });
  const norm = (x: readonly number[]): number => Math.hypot(...x);
  const [x, y] = half.of as [number[], number[]];
  const cosine = x.reduce((sum, value, i) => sum + value * y[i]!, 0) / norm(x) / norm(y);
  const factor = 1 / (2 * Math.cos(Math.acos(cosine) / 2)); // sin(theta / 2) / sin(theta)
  near(half.a, times([factor, x], [factor, y]));
  await expect(merged("slerp", [1, 2, 3])).rejects.toMatchObject({ code: "invalid_input" });
});

test("task arithmetic adds what was changed to the first", async () => {
  const { a, of } = await merged("task-arithmetic", [1, 2, 3], { scale: [0.5, -1] });
  near(a, times([1 - 0.5 + 1, of[0]!], [0.5, of[1]!], [-1, of[2]!]));
  await expect(merged("task-arithmetic", [1])).rejects.toMatchObject({ hint: expect.stringContaining("BASE") });
});

test("TIES with one model and full density is that model; with three it follows the elected sign", async () => {
  const one = await merged("ties", [1, 2], { density: 1 });
  near(one.a, one.of[1]!);
  const { a, of } = await merged("ties", [1, 2, 3, 4], { density: 0.5, weights: [1, 2, 1] });
  const [base, ...tuned] = of as [number[], ...number[][]];
  const trimmed = tuned.map((w, m) => {
    const delta = w.map((value, i) => value - base[i]!);
    const least = delta.map(Math.abs).sort((x, y) => y - x)[Math.trunc(delta.length / 2) - 1]!;
    return delta.map((value) => (Math.abs(value) >= least ? value * [1, 2, 1][m]! : 0));
  });
  near(
    a,
    base.map((value, i) => {
      const sign = trimmed.reduce((sum, delta) => sum + delta[i]!, 0) >= 0 ? 1 : -1;
      const agreeing = trimmed.flatMap((delta, m) => (delta[i]! * sign > 0 ? [[delta[i]!, [1, 2, 1][m]!]] : []));
      const share = agreeing.reduce((sum, [, weight]) => sum + weight!, 0);
      return value + (share === 0 ? 0 : agreeing.reduce((sum, [delta]) => sum + delta!, 0) / share);
    }),
  );
});

test("DARE drops the same by the same seed, whatever the shards, and enlarges what it keeps", async () => {
  const { a, of } = await merged("dare", [1, 2], { dropRate: 0.5, seed: 7 });
  expect((await merged("dare", [1, 2], { dropRate: 0.5, seed: 7, shardBytes: 50 })).a).toEqual(a);
  expect((await merged("dare", [1, 2], { dropRate: 0.5, seed: 8 })).a).not.toEqual(a);
  const [base, tuned] = of as [number[], number[]];
  const factors = a.map((value, i) => (value - base[i]!) / (tuned[i]! - base[i]!));
  for (const factor of factors) expect(Math.min(Math.abs(factor), Math.abs(factor - 2))).toBeLessThan(1e-3);
  expect(new Set(factors.map(Math.round)).size).toBe(2);
});

test("an exponential average of snapshots, and one of another width from two", async () => {
  const { a, of } = await merged("ema", [1, 2, 3, 4], { decay: 0.1 });
  // decays 0, 2/11 capped at 0.1, 0.1, 0.1
  near(a, times([0.001, of[0]!], [0.009, of[1]!], [0.09, of[2]!], [0.9, of[3]!]));
  const same = await merged("ema-posthoc", [1, 2], { steps: [10, 20], sigmaRel: [0.1], target: 0.1 });
  near(same.a, same.of[1]!); // the wanted average is one of the two
  await expect(merged("ema", [1, 2], { sigmaRel: 0.5 })).rejects.toMatchObject({
    message: expect.stringContaining("at most 0.289"),
  });
});

test("a LoRA made part of a checkpoint does what it did beside it", async () => {
  const transformer = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline/transformer");
  const lora = join(scratch, "lora.safetensors");
  using generator = new Generator(5);
  scope(() =>
    saveSafetensors(lora, {
      "diffusion_model.blocks.0.self_attn.q.lora_down.weight": randn([2, 40], { generator }),
      "diffusion_model.blocks.0.self_attn.q.lora_up.weight": randn([40, 2], { generator }),
    }),
  );
  await using ctx = await testContext({ plugins: ["merge", "wan", "lora", "storage-local"] });
  const output = join(scratch, "fused");
  const fuse = await ctx.use("merge", "fuse", { lora: [{ path: lora, weight: 0.5 }] });
  await fuse({ checkpoints: [{ path: transformer }], output });
  const [before, after] = [values(transformer), values(output)];
  using file = openCheckpoint(lora);
  const product = scope(() => {
    const [down, up] = ["down", "up"].map((part) =>
      file.get(`diffusion_model.blocks.0.self_attn.q.lora_${part}.weight`),
    );
    return up!.matmul(down!).mul(0.5).toNumbers();
  });
  for (const [key, weights] of Object.entries(before))
    if (key === "blocks.0.attn1.to_q.weight") near(after[key]!, times([1, weights], [1, product]));
    else expect(after[key]).toEqual(weights);
});

test("checkpoints of different networks are refused by name", async () => {
  await using ctx = await testContext({ plugins: ["merge", "storage-local"] });
  const merge = await ctx.use("merge", "average");
  const refused = merge({
    checkpoints: [{ path: checkpoint(1) }, { path: checkpoint(1, 6) }],
    output: join(scratch, "none"),
  });
  await expect(refused).rejects.toMatchObject({
    code: "checkpoint_mismatch",
    message: expect.stringMatching(/a is \[4,3\] in .* and \[6,3\] in/),
  });
});
