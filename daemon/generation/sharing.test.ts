import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, randn, saveSafetensors, scope, sequenceBytes, setThreads, shardBytes } from "../../native/index.ts";
import { configOf } from "../../plugins/wan/checkpoint.ts";
import { WanDenoiser } from "../../plugins/wan/denoiser.ts";
import { runOperation, testContext } from "../../test/support/context.ts";
import { operations } from "../operations/plan.ts";
import type { Plan } from "./figures.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "lora", "storage-local"];
const scratch = mkdtempSync(join(tmpdir(), "sharing-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const model = join(scratch, "model");
const [heads, headDim, numLayers] = [4, 12, 3];
let blocks = 0;
let whole = 0;
/** Golden's pipeline with a transformer of three blocks and four heads. */
beforeAll(async () => {
  cpSync(join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline"), model, { recursive: true });
  const path = join(model, "transformer");
  const config = { ...configOf(path), num_layers: numLayers, num_attention_heads: heads, attention_head_dim: headDim };
  using generator = new Generator(2);
  await using network = WanDenoiser.init(config, generator, { device: "cpu" });
  await network.save(path);
  blocks = network.module.blocks.reduce((sum, block) => sum + block.bytes("float32"), 0);
  whole = network.module.bytes("float32");
});

const request = { width: 192, height: 128, numFrames: 5, numSteps: 3, maxTokens: 16, prompt: "a ball" };
const planOf = async (more: Record<string, unknown> = {}): Promise<Plan> => {
  await using ctx = await testContext({ plugins });
  return (await runOperation(operations["plan-generate"], { model, ...request, ...more }, ctx)) as Plan;
};
const denoise = (plan: Plan): Plan["stages"][number] =>
  plan.stages.find(({ stage }) => stage === "denoise") as Plan["stages"][number];
const numTokens = (2 * 16 * 24) / 4;
const passes = 2 * request.numSteps;
const latents = 16 * 2 * 16 * 24 * 4;

test("each of several ranks has its share of the tokens, and what they send is what the formula says", async () => {
  const [one, two, four] = [await planOf(), await planOf({ ranks: 2 }), await planOf({ ranks: 4 })];
  expect(one.ranks).toBeNull();
  for (const [ranks, plan] of [
    [2, two],
    [4, four],
  ] as const) {
    const inside = passes * sequenceBytes(ranks, { batch: 1, numTokens, heads, headDim, numLayers, itemSize: 4 });
    expect(plan.ranks).toMatchObject({ count: ranks, replicas: 1, weightBytes: denoise(one).weightBytes });
    const inputs = (plan.ranks?.sentBytes as number) - inside;
    // latents and a text of 16 tokens to every other rank, once a pass
    expect(inputs).toBeGreaterThanOrEqual(passes * (ranks - 1) * latents);
    expect(inputs).toBeLessThan(1.1 * passes * (ranks - 1) * latents);
  }
  expect(denoise(two).peakBytes).toBeLessThanOrEqual(denoise(one).peakBytes);
  // all that the ranks of a job do is still all that there is to do
  expect(two.flops).toBe(one.flops);
});

test("ring sends what ring sends, replicas no tokens at all", async () => {
  const ring = await planOf({ ranks: 2, parallel: { attention: "ring" } });
  const like = { batch: 1, numTokens, heads, headDim, numLayers, itemSize: 4 };
  const [rings, heads2] = [sequenceBytes(2, like, { mode: "ring" }), sequenceBytes(2, like, { mode: "ulysses" })];
  const ulysses = await planOf({ ranks: 2, parallel: { attention: "ulysses" } });
  expect((ring.ranks?.sentBytes as number) - (ulysses.ranks?.sentBytes as number)).toBeCloseTo(
    passes * (rings - heads2),
    0,
  );
  const replicas = await planOf({ ranks: 2, parallel: { replicas: 2 } });
  // out and back, with two texts
  expect(replicas.ranks?.sentBytes).toBeGreaterThanOrEqual(2 * request.numSteps * latents);
  expect(replicas.ranks?.sentBytes).toBeLessThan(2.2 * request.numSteps * latents);
});

test("weights in parts: a share of all blocks and one of them whole, gathered in every pass", async () => {
  const [plain, parts] = [await planOf({ ranks: 2 }), await planOf({ ranks: 2, parallel: { shardWeights: true } })];
  expect(parts.ranks?.weightBytes).toBe(whole - blocks + blocks / 2 + blocks / numLayers);
  expect((parts.ranks?.sentBytes as number) - (plain.ranks?.sentBytes as number)).toBe(passes * shardBytes(2, blocks));
});

test("LoRA files are counted with the network that wears them; one that is not there is named", async () => {
  const lora = join(scratch, "lora.safetensors");
  using generator = new Generator(1);
  scope(() =>
    saveSafetensors(lora, {
      "diffusion_model.blocks.0.self_attn.q.lora_down.weight": randn([2, 48], { generator }),
      "diffusion_model.blocks.0.self_attn.q.lora_up.weight": randn([48, 2], { generator }),
    }),
  );
  const [bare, worn] = [await planOf(), await planOf({ lora: [`${lora}:0.5`] })];
  expect(denoise(worn).weightBytes - denoise(bare).weightBytes).toBe(statSync(lora).size);
  await expect(planOf({ lora: [join(scratch, "none.safetensors")] })).rejects.toThrow(/there is no LoRA at/);
});

test("copies of weights in a CPU's own layout are counted", async () => {
  const [single, double] = [await planOf({ dtype: "float32" }), await planOf({ dtype: "bfloat16" })];
  const { weightBytes } = denoise(double);
  expect(denoise(single).weightBytes).toBe(whole);
  // half the bytes, and the linear layers of the blocks twice
  expect(weightBytes).toBeGreaterThan(0.9 * (whole / 2 + blocks / 2));
  expect(weightBytes).toBeLessThan(whole);
});
