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
  await using ctx = await testContext({ plugins: ["merge-average", "storage-local"] });
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

test("checkpoints of different networks are refused by name", async () => {
  await using ctx = await testContext({ plugins: ["merge-average", "storage-local"] });
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
