/** LoRAs as a warm runner serves them: step-distilled ones by their recipe, one after another, and one for each of two denoisers. */
import { afterAll, afterEach, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import wan from "../../configs/generate/wan.ts";
import {
  Generator,
  openSafetensors,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
} from "../../native/index.ts";
import { WanDenoiser } from "../../plugins/wan/denoiser.ts";
import { leaseOf } from "../../test/support/runner-process.ts";
import { twoDenoisers } from "../../test/support/two-denoisers.ts";
import { loadConfig } from "../config.ts";
import { buildRegistry } from "../plugins/build.ts";
import type { FromRunner } from "../runner/protocol.ts";
import { Runner } from "../runner/runner.ts";

setThreads(1);
setDefaultTimeout(120_000); // seconds of work on a loaded machine
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const scratch = mkdtempSync(join(tmpdir(), "four-steps-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const WEIGHTS = "diffusion_pytorch_model.safetensors";
/** Width of the golden pipeline's transformer. */
const D = 40;
const RANK = 2;
/** A layer as diffusers and as the authors name it. */
const LAYER = { peft: "blocks.0.attn1.to_q", original: "blocks.0.self_attn.q" } as const;

/** down [r D], up [D r] */
function factors(seed: number): { down: Tensor; up: Tensor } {
  using generator = new Generator(seed);
  return { down: randn([RANK, D], { generator }), up: randn([D, RANK], { generator }) };
}
/** A file in one naming or the other; its tensors depend on the seed alone. */
function lora(seed: number, naming: keyof typeof LAYER = "peft"): string {
  const path = join(scratch, `${naming}-${seed}.safetensors`);
  scope(() => {
    const { down, up } = factors(seed);
    saveSafetensors(
      path,
      naming === "peft"
        ? { [`transformer.${LAYER.peft}.lora_A.weight`]: down, [`transformer.${LAYER.peft}.lora_B.weight`]: up }
        : {
            [`diffusion_model.${LAYER.original}.lora_down.weight`]: down,
            [`diffusion_model.${LAYER.original}.lora_up.weight`]: up,
          },
    );
  });
  return path;
}

interface Item {
  readonly latents: string;
  readonly path: string;
}
const latents = (path: string): Float32Array => {
  using file = openSafetensors(path);
  return scope(() => file.get("latents").toFloat32Array());
};
const distance = (a: Float32Array, b: Float32Array): number =>
  a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (b[i] as number))), 0);

const loads = spyOn(WanDenoiser, "load");
const passes = spyOn(WanDenoiser.prototype, "forward");
afterEach(() => {
  loads.mockClear();
  passes.mockClear();
});
/** Those with data: plans load and pass as well, on shapes alone. */
const numLoads = (): number => loads.mock.calls.filter(([, { device }]) => device !== "meta").length;
const numPasses = (): number => passes.mock.calls.filter(([input]) => input.t.device !== "meta").length;

const small = { prompt: "a ball", width: 16, height: 16, numFrames: 5, maxTokens: 8, keepLatents: true };
/** Jobs of one runner, one after another: latents of each, and the networks that were resident after it. */
async function served(...jobs: readonly object[]): Promise<{ latents: Float32Array[]; networks: number[] }> {
  const home = mkdtempSync(join(scratch, "home-"));
  const config = await loadConfig({ from: home, env: { HOME: home, XDG_CONFIG_HOME: home }, set: { home } });
  const load = (): ReturnType<typeof buildRegistry> => buildRegistry({ config, signal: new AbortController().signal });
  let last: FromRunner | undefined;
  let networks = 0;
  const runner = new Runner({
    ...{ role: "device", device: "cpu", plugin: null, config, registry: await load(), reload: load },
    link: {
      send: (message) => {
        if (message.type === "done" || message.type === "failed") last = message;
        if (message.type === "resident") networks = message.items.filter(({ hook }) => hook === "family").length;
      },
      use: async () => expect.unreachable(),
      submit: async () => expect.unreachable(),
    },
  });
  const made: { latents: Float32Array[]; networks: number[] } = { latents: [], networks: [] };
  try {
    for (const [n, job] of jobs.entries()) {
      await runner.run({
        ...{ type: "run", lease: leaseOf(n), operation: "generate", workDir: join(home, "work", String(n)) },
        input: { model, ...small, ...job },
      });
      if (last?.type !== "done") throw new Error(JSON.stringify(last));
      made.latents.push(latents((last.output as { items: [Item] }).items[0].latents));
      made.networks.push(networks);
    }
  } finally {
    await runner[Symbol.asyncDispose]();
  }
  return made;
}

test("a distilled LoRA runs by its recipe, in four passes, under either naming", async () => {
  const fourSteps = { ...wan.fourSteps, ...small };
  const [bare] = (await served(fourSteps)).latents;
  passes.mockClear();
  const given = await served({ ...fourSteps, lora: [lora(1)] });
  expect(numPasses()).toBe(4);
  const other = await served({ ...fourSteps, lora: [lora(1, "original")] });
  expect(numPasses()).toBe(8);
  expect(distance(given.latents[0] as Float32Array, other.latents[0] as Float32Array)).toBe(0);
  expect(distance(given.latents[0] as Float32Array, bare as Float32Array)).toBeGreaterThan(1e-3);
  // what the recipe leaves out: guidance would pass twice a step
  passes.mockClear();
  await served({ ...fourSteps, guide: { id: "cfg", scale: 5 }, lora: [lora(1)] });
  expect(numPasses()).toBe(8);
});

test("one LoRA after another rides on the network that is there", async () => {
  const job = (...specs: string[]): object => ({ numSteps: 2, guide: { id: "none" }, lora: specs });
  const jobs = [job(lora(1)), job(lora(2)), job(), job(lora(1)), job(`${lora(1)}:0.5`, lora(2))];
  const warm = await served(...jobs);
  expect(numLoads()).toBe(1);
  expect(warm.networks).toEqual(jobs.map(() => 1));
  for (const [i, each] of jobs.entries()) {
    const [cold] = (await served(each)).latents;
    expect(distance(warm.latents[i] as Float32Array, cold as Float32Array)).toBe(0);
    for (const k of [0, 1, 2, 4].filter((k) => k !== i && !(i === 3 && k === 0)))
      expect(distance(warm.latents[i] as Float32Array, warm.latents[k] as Float32Array)).toBeGreaterThan(1e-3);
  }
});

test("of two denoisers each wears its own LoRA: as if it were part of its weights", async () => {
  /** The pipeline with two denoisers, LoRAs made part of them. */
  const two = (name: string, first: number | null, second: number | null): string => {
    const folder = twoDenoisers(model, join(scratch, name));
    for (const [part, seed] of [
      ["transformer", first],
      ["transformer_2", second],
    ] as const) {
      if (seed === null) continue;
      const path = join(folder, part, WEIGHTS);
      using file = openSafetensors(join(model, "transformer", WEIGHTS));
      rmSync(path);
      scope(() => {
        const { down, up } = factors(seed);
        const tensors = Object.fromEntries(file.keys.map((key) => [key, file.get(key)]));
        const key = `${LAYER.peft}.weight`;
        saveSafetensors(path, { ...tensors, [key]: (tensors[key] as Tensor).add(up.matmul(down)) }, file.metadata);
      });
    }
    return folder;
  };
  const bare = two("bare", null, null);
  const run = async (more: object): Promise<Float32Array> =>
    (await served({ model: bare, numSteps: 4, guide: { id: "none" }, ...more })).latents[0] as Float32Array;
  const [a, b] = [lora(1), lora(2)];
  const cases = [
    [{ lora: [a], lora2: [b] }, two("ab", 1, 2)],
    [{ lora: [a], lora2: [] }, two("a-", 1, null)],
    [{ lora: [], lora2: [b] }, two("-b", null, 2)],
    [{ lora: [a] }, two("aa", 1, 1)],
  ] as const;
  const seen: Float32Array[] = [];
  for (const [more, fused] of cases) {
    const ridden = await run(more);
    // x (W + BA) and x W + x A B, in float32 over four steps
    expect(distance(ridden, await run({ model: fused }))).toBeLessThan(1e-3);
    for (const other of seen) expect(distance(ridden, other)).toBeGreaterThan(1e-2);
    seen.push(ridden);
  }
});

test("a second LoRA for a model of one denoiser is refused", async () => {
  await expect(served({ numSteps: 2, lora2: [lora(1)] })).rejects.toThrow(/lora2 is for models of two denoisers/);
});
