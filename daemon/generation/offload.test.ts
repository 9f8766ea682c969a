import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, randn, saveSafetensors, scope, setThreads } from "../../native/index.ts";
import { type Context, useFitting, WaverError } from "../../plugins/index.ts";
import { configOf } from "../../plugins/wan/checkpoint.ts";
import { WanDenoiser } from "../../plugins/wan/denoiser.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { generate } from "../operations/generate.ts";
import { operations } from "../operations/plan.ts";
import { Residency } from "../runner/residency.ts";
import type { Plan } from "./figures.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "lora", "storage-local"];
const scratch = mkdtempSync(join(tmpdir(), "offload-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const published = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const model = join(scratch, "deeper");
const request = {
  model,
  prompt: "a ball",
  width: 48,
  height: 32,
  numFrames: 5,
  numSteps: 3,
  maxTokens: 16,
  minPsnr: 0,
};
/** A published pipeline whose transformer has enough blocks for two of them to be few. */
beforeAll(async () => {
  cpSync(published, model, { recursive: true });
  const path = join(model, "transformer");
  using generator = new Generator(2);
  await using deeper = WanDenoiser.init({ ...configOf(path), num_layers: 7 }, generator, { device: "cpu" });
  await deeper.save(path);
});

const open = (memoryBudget = Number.POSITIVE_INFINITY): Promise<TestContext> => testContext({ plugins, memoryBudget });
const planOf = async (more: Record<string, unknown>, memoryBudget?: number): Promise<Plan> => {
  await using ctx = await open(memoryBudget);
  return (await runOperation(operations["plan-generate"], { ...request, ...more }, ctx)) as Plan;
};
/** The digest of the file, and of which networks the blocks came and went. */
async function made(
  more: Record<string, unknown>,
  memoryBudget?: number,
): Promise<[digest: string, networks: unknown]> {
  await using ctx = await open(memoryBudget);
  const output = (await runOperation(generate, { ...request, ...more }, ctx)) as { items: [{ digest: string }] };
  return [
    output.items[0].digest,
    ctx.logged.find(({ event }) => event === "weights_offloaded")?.fields["networks"] ?? null,
  ];
}
const weights = (plan: Plan, component: string): number =>
  plan.stages.find((each) => each.component === component)?.weightBytes as number;

test("the file is the same to the byte, with a LoRA and in either precision", async () => {
  const lora = join(scratch, "lora.safetensors");
  using generator = new Generator(1);
  scope(() =>
    saveSafetensors(lora, {
      "diffusion_model.blocks.0.self_attn.q.lora_down.weight": randn([2, 40], { generator }),
      "diffusion_model.blocks.0.self_attn.q.lora_up.weight": randn([40, 2], { generator }),
    }),
  );
  for (const more of [{}, { dtype: "bfloat16" }, { lora: [lora] }]) {
    const [digest, networks] = await made({ ...more, offload: "none" });
    expect(networks).toBeNull();
    expect(await made({ ...more, offload: "blocks" })).toEqual([digest, ["transformer", "text_encoder"]]);
  }
});

test("auto leaves whole what fits, and a plan counts what is on the device at a time", async () => {
  const whole = await planOf({});
  expect(whole.offload).toEqual([]);
  const forced = await planOf({ offload: "blocks" });
  expect(forced.offload).toEqual(["transformer", "text_encoder"]);
  // two blocks of seven
  expect(weights(forced, "transformer")).toBeLessThan(0.5 * weights(whole, "transformer"));
  expect(weights(forced, "vae")).toBe(weights(whole, "vae"));
  expect(forced.peakBytes).toBeLessThan(whole.peakBytes);
  expect(forced.flops).toBe(whole.flops);
  // blocks are read anew at every pass, as fast as the file can be read
  for (const [stage, other] of forced.stages.map((each, i) => [each, whole.stages[i]] as const)) {
    const comes = forced.offload.includes(stage.component);
    const rate = forced.rates[`weights of ${stage.component} read GB/s`];
    expect([stage.readBytes > 0, rate !== undefined, other?.readBytes]).toEqual([comes, comes, 0]);
    if (!comes) continue;
    expect(stage.readBytes / stage.passes).toBeLessThan(other?.weightBytes as number);
    expect(stage.readBytes / stage.passes).toBeGreaterThan((other?.weightBytes as number) - stage.weightBytes);
    expect(stage.seconds).toBeGreaterThan((0.9 * stage.readBytes) / ((rate as number) + 0.06) / 1e9); // said in tenths
  }

  const needs = ({ component, weightBytes, peakBytes }: Plan["stages"][number]): number =>
    component === "vae" ? 0 : weights(whole, "vae") + weightBytes + peakBytes;
  const most = Math.max(...whole.stages.map(needs));
  expect((await planOf({}, most)).offload).toEqual([]);
  expect((await planOf({}, most - 1)).offload).toEqual(["transformer"]);
  expect((await planOf({ offload: "none" }, most - 1)).offload).toEqual([]);
  const [digest] = await made({});
  expect(await made({}, most - 1)).toEqual([digest, ["transformer"]]);
});

test("what excludes each other is said before anything is loaded", async () => {
  const error: unknown = await made({ offload: "blocks", ranks: 2, parallel: { shardWeights: true } }).catch((e) => e);
  expect(error).toBeInstanceOf(WaverError);
  expect((error as WaverError).message).toContain("parallel.shardWeights already leaves a part of the weights");
  await expect(made({ offload: "blocks", weights: "int8" })).rejects.toThrow(
    "are read as they are stored, not in int8",
  );
});

test("what memory is refused to as a whole comes by blocks, unless the request says otherwise", async () => {
  await using ctx = await open();
  await using residency = new Residency({ budget: 100, keepAliveMs: 10_000 });
  const signal = new AbortController().signal;
  /** Admission as a runner does it: another job's network holds most of the memory. */
  const acquire = (id: string, bytes: number): ReturnType<Residency["acquire"]> =>
    residency.acquire(
      {
        hook: "family",
        id,
        origin: id,
        key: id,
        bytes: () => bytes,
        load: async () => undefined,
        unloaded: () => undefined,
      },
      signal,
    );
  const other = await acquire("another", 70);
  const beside = {
    ...ctx,
    use: async (_hook: string, id: string, options: Record<string, unknown> = {}) => {
      const held = await acquire(`${id} ${options["offload"] === true}`, options["offload"] === true ? 20 : 60);
      return Object.assign(async () => options, { [Symbol.dispose]: held.release });
    },
  } as unknown as Context;
  {
    using use = await useFitting("family", "wan", { path: "x" }, "auto", beside);
    expect((await use({})) as unknown).toEqual({ path: "x", offload: true });
    expect(ctx.logged).toContainEqual({
      event: "weights_offloaded",
      fields: { network: "wan", reason: expect.stringContaining("another") },
    });
  }
  await expect(useFitting("family", "wan", {}, "none", beside)).rejects.toMatchObject({ code: "out_of_memory" });
  other.release();
  using whole = await useFitting("family", "wan", { path: "x" }, "auto", beside);
  expect((await whole({})) as unknown).toEqual({ path: "x" });
});
