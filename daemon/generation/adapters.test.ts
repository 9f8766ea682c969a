import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, openSafetensors, randn, saveSafetensors, scope, setThreads } from "../../native/index.ts";
import type { WaverError } from "../../plugins/index.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { generate } from "../operations/generate.ts";
import { adapterSpec } from "./adapters.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "lora", "storage-local"];
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const scratch = mkdtempSync(join(tmpdir(), "adapters-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** Width of the golden pipeline's transformer. */
const D = 40;
/** A LoRA on one layer, under the name that it has in the authors' repository. */
function lora(name: string, seed: number, layer = "blocks.0.self_attn.q"): string {
  const path = join(scratch, `${name}.safetensors`);
  using generator = new Generator(seed);
  scope(() =>
    saveSafetensors(path, {
      [`diffusion_model.${layer}.lora_down.weight`]: randn([2, D], { generator }),
      [`diffusion_model.${layer}.lora_up.weight`]: randn([D, 2], { generator }),
    }),
  );
  return path;
}
interface Item {
  readonly path: string;
  readonly digest: string;
  readonly latents: string;
}
const sample = async (ctx: TestContext, specs: readonly string[]): Promise<Item> => {
  const small = { prompt: "a ball", width: 16, height: 16, numFrames: 5, numSteps: 3, maxTokens: 8, keepLatents: true };
  const output = await runOperation(generate, { model, ...small, guide: { id: "none" }, lora: specs }, ctx);
  return (output as { items: [Item] }).items[0];
};
const latents = ({ latents: path }: Item): Float32Array => {
  using file = openSafetensors(path);
  return scope(() => file.get("latents").toFloat32Array());
};
const distance = (a: Float32Array, b: Float32Array): number =>
  a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (b[i] as number))), 0);

test("jobs at once on one resident network do not see each other's LoRAs", async () => {
  const [a, b] = [lora("a", 1), lora("b", 2)];
  const wanted = [[a], [`${b}:-0.5`], [], [a, b]];
  const alone: Float32Array[] = [];
  for (const specs of wanted) {
    await using ctx = await testContext({ plugins });
    alone.push(latents(await sample(ctx, specs)));
  }
  await using ctx = await testContext({ plugins });
  /** Another job on the same residents: a folder and units of its own. */
  const beside = (name: string): TestContext => {
    const workDir = join(ctx.workDir, name);
    mkdirSync(workDir);
    return { ...ctx, workDir, unit: (key, schema, work) => ctx.unit(`${name} ${key}`, schema, work) };
  };
  const together = await Promise.all(wanted.map((specs, i) => sample(beside(`job${i}`), specs)));
  for (const [i, item] of together.entries()) expect(distance(latents(item), alone[i] as Float32Array)).toBe(0);
  for (const [i, k] of [
    [0, 2],
    [1, 2],
    [3, 0],
    [3, 1],
  ] as const)
    expect(distance(alone[i] as Float32Array, alone[k] as Float32Array)).toBeGreaterThan(1e-3);
});

test("a LoRA is named in the recipe and in the lineage, with its weight", async () => {
  await using ctx = await testContext({ plugins });
  const item = await sample(ctx, [`${lora("named", 3)}:0.7`]);
  const digest = expect.stringMatching(/^sha256:/);
  expect(await ctx.media.readMetadata(item.path)).toMatchObject({
    lora: [{ name: "named.safetensors", weight: 0.7, digest }],
  });
  expect((await ctx.store.lineage(item.digest as never))?.inputs).toContainEqual({ role: "adapter", digest });
});

test("a LoRA that is not there, or is another network's, is refused", async () => {
  await using ctx = await testContext({ plugins });
  const refused = (spec: string): Promise<unknown> => sample(ctx, [spec]).catch((error: WaverError) => error);
  expect(await refused("/nonexistent/x.safetensors:0.5")).toMatchObject({
    code: "checkpoint_missing",
    message: "there is no LoRA at /nonexistent/x.safetensors",
  });
  expect(await refused(lora("other", 4, "blocks.70.self_attn.q"))).toMatchObject({
    code: "checkpoint_mismatch",
    message: expect.stringMatching(/does not have \(1 of 1\)/),
  });
});

test("a weight is the number after the last colon", () => {
  const digest = `sha256:${"0".repeat(64)}`;
  expect(["a:b/c.safetensors", "c.safetensors:.5", digest, `${digest}:2`].map(adapterSpec)).toEqual([
    { path: "a:b/c.safetensors", weight: 1 },
    { path: "c.safetensors", weight: 0.5 },
    { path: digest, weight: 1 },
    { path: digest, weight: 2 },
  ]);
});
