/** `generate` with weights in 8 bits, on the golden Wan pipeline: how near it stays, and what else of a job knows of it. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Generator,
  type Linear,
  type Module,
  noGrad,
  normal_,
  openSafetensors,
  quantisable,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import { type Denoiser, type Plugin, provide, type TextEncoder, type WaverError, z } from "../../plugins/index.ts";
import { T5TextEncoder } from "../../plugins/t5/encoder.ts";
import { T5Config } from "../../plugins/t5/params.ts";
import { WanDenoiser } from "../../plugins/wan/denoiser.ts";
import { WanConfig } from "../../plugins/wan/params.ts";
import { runOperation, type TestContext, testContext } from "../../test/support/context.ts";
import { TINY_TEXT, TOKENIZER } from "../../test/support/tiny-model.ts";
import { tinyPipeline } from "../../test/support/tiny-pipeline.ts";
import { generate } from "../operations/generate.ts";
import { operations } from "../operations/plan.ts";
import type { Plan } from "./figures.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const plugins = ["t5", "wan", "wan-vae", "flow", "guide-cfg", "lora", "storage-local"];
const model = join(import.meta.dir, "../../test/golden/pipeline_wan_t2v/pipeline");
const scratch = mkdtempSync(join(tmpdir(), "weights-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const request = {
  ...{ model, prompt: "a red ball", seed: 4, width: 32, height: 32, numFrames: 5, numSteps: 4, maxTokens: 16 },
  ...{ keepLatents: true, keepFrames: true },
};

interface Item {
  readonly path: string;
  readonly digest: string;
  readonly latents: string;
  readonly frames: string;
}
const sample = async (ctx: TestContext, more: Record<string, unknown>): Promise<Item> => {
  const output = await runOperation(generate, { ...request, ...more }, ctx);
  return (output as { items: [Item] }).items[0];
};
const numbers = (path: string, key: string): Float32Array => {
  using file = openSafetensors(path);
  return scope(() => file.get(key, { dtype: "float32" }).toFloat32Array());
};
/** Root mean square of the difference. */
const distance = (a: Float32Array, b: Float32Array): number =>
  Math.sqrt(a.reduce((sum, value, i) => sum + (value - (b[i] as number)) ** 2, 0) / a.length);
interface Made {
  readonly latents: Float32Array;
  readonly frames: Float32Array;
  readonly digest: string;
  readonly recipe: Record<string, unknown>;
}
const made = async (more: Record<string, unknown>): Promise<Made> => {
  await using ctx = await testContext({ plugins });
  const { latents, frames, digest, path } = await sample(ctx, more);
  return {
    latents: numbers(latents, "latents"),
    frames: numbers(frames, "video"),
    digest,
    recipe: (await ctx.media.readMetadata(path)) ?? {},
  };
};
const psnr = (a: Made, b: Made): number => 20 * Math.log10(1 / distance(a.frames, b.frames));
/** With stored weights, in float32 and bfloat16: what the second is from the first is what bfloat16 costs. */
let stored: Record<"float32" | "bfloat16", Made>;
beforeAll(async () => {
  stored = { float32: await made({ dtype: "float32" }), bfloat16: await made({ dtype: "bfloat16" }) };
});

// A layer's output is 44 dB from that of the stored weights in int8, 32 dB in fp8; bfloat16 rounds weights, inputs and
// every result, at 50 dB each. So int8 costs no more than bfloat16 does, and fp8 four times that.
describe.each([
  ["int8", 1],
  ["fp8", 4],
] as const)("%s", (weights, times) => {
  test.each(["float32", "bfloat16"] as const)("in %s: a video near that of the stored weights", async (dtype) => {
    const own = distance(stored.float32.latents, stored.bfloat16.latents);
    const there = await made({ dtype, weights });
    const allowed = dtype === "bfloat16" ? times + 1 : times;
    const difference = distance(stored[dtype].latents, there.latents);
    expect(difference).toBeGreaterThan(0);
    expect(difference / own).toBeLessThan(allowed);
    expect(psnr(stored[dtype], there)).toBeGreaterThan(
      psnr(stored.float32, stored.bfloat16) - 20 * Math.log10(allowed) - 3,
    );
    expect([there.recipe["weights"], stored[dtype].recipe["weights"]]).toEqual([weights, undefined]);
  });

  test("the same file each time", async () => {
    expect((await made({ weights })).digest).toBe((await made({ weights })).digest);
  });

  test("a LoRA rides on them", async () => {
    const lora = join(scratch, `${weights}.safetensors`);
    using generator = new Generator(1);
    scope(() =>
      saveSafetensors(lora, {
        "diffusion_model.blocks.0.ffn.0.lora_down.weight": randn([2, 40], { generator }).mul(0.6),
        "diffusion_model.blocks.0.ffn.0.lora_up.weight": randn([80, 2], { generator }).mul(0.6),
      }),
    );
    const [whole, plain, adapted] = [
      await made({ lora: [lora] }),
      await made({ weights }),
      await made({ weights, lora: [lora] }),
    ];
    const difference = distance(whole.latents, adapted.latents);
    expect(difference / distance(stored.float32.latents, stored.bfloat16.latents)).toBeLessThan(times);
    expect(distance(plain.latents, adapted.latents)).toBeGreaterThan(4 * difference);
  });

  test("plan and claim count what they take", async () => {
    await using ctx = await testContext({ plugins });
    const weightsOf = async (more: Record<string, unknown>): Promise<number> => {
      const plan = (await runOperation(operations["plan-generate"], { ...request, ...more }, ctx)) as Plan;
      return plan.stages.find(({ stage }) => stage === "denoise")?.weightBytes as number;
    };
    const planned = await weightsOf({ weights });
    const path = join(model, "transformer");
    const network: Denoiser = await (await ctx.use("family", "wan", { path, weights }))({});
    expect(planned).toBe(network.module.loadedBytes());
    const wan = (await import("../../plugins/wan/index.ts")).default.provides[0]?.provider;
    expect(await wan?.bytes?.(wan.options.parse({ path, weights }))).toBe(planned);
    // two blocks of eight attention layers of 40 x 40 and two of 40 x 80 in a byte instead of four, and their scales
    const quantised = 2 * (8 * 40 * 40 + 2 * 40 * 80);
    expect((await weightsOf({})) - planned).toBe(3 * quantised - 4 * 2 * (8 * 40 + 40 + 80));
  });
});

describe.each(["int8", "fp8"] as const)("the other networks in %s", (weights) => {
  const LEAST_DECIBELS = { int8: 35, fp8: 22 }; // a layer's 44 and 32, and several of them
  /** What a network gives with its weights as stored and in 8 bits, and the bytes of both. */
  const both = async <T extends { readonly module: Module }>(
    [hook, id]: ["family" | "encodeText", string],
    options: Record<string, unknown>,
    run: (network: T) => Tensor,
  ): Promise<{ snr: number; saved: number; left: number }> => {
    await using ctx = await testContext({ plugins: ["t5", "waver", "storage-local"] });
    const plugin = (await import(`../../plugins/${id === "waver" ? "waver" : "t5"}/index.ts`)).default as Plugin;
    const provider = plugin.provides.find((each) => each.provider.id === id)?.provider;
    const given = [options, { ...options, weights }];
    const networks: T[] = [];
    for (const each of given) networks.push((await (await ctx.use(hook, id, each))({})) as unknown as T);
    const claims: number[] = [];
    for (const each of given) claims.push((await provider?.bytes?.(provider.options.parse(each))) as number);
    expect(claims).toEqual(networks.map(({ module }) => module.loadedBytes()));
    const [whole, narrow] = networks as [T, T];
    return scope(() =>
      noGrad(() => {
        const want = run(whole);
        const noise = run(narrow).sub(want).square().mean().item();
        const narrowed = quantisable(narrow.module);
        expect(narrowed.size).toBeGreaterThan(0);
        for (const [weight] of narrowed) expect(weight.dtype).toBe(weights === "int8" ? "int8" : "float8_e4m3fn");
        return {
          snr: 10 * Math.log10(want.square().mean().item() / noise),
          saved: (claims[0] as number) - (claims[1] as number),
          left: [...narrowed.keys()].reduce(
            (sum, { declaredNumel, shape }) => sum + 3 * declaredNumel - 4 * (shape[0] as number),
            0,
          ),
        };
      }),
    );
  };

  test("waver, whose modulations stay", async () => {
    const folder = await tinyPipeline(join(scratch, `tiny-${weights}`));
    const noise = (shape: number[]): Tensor => {
      using generator = new Generator(8);
      return randn(shape, { generator });
    };
    const { snr, saved, left } = await both(
      ["family", "waver"],
      { path: join(folder, "transformer") },
      (net: Denoiser) => {
        for (const [name, layer] of net.module.namedModules())
          if (name.endsWith("mod")) expect((layer as Linear).weight.dtype).toBe("float32");
        const known = noise([1, 8, 2, 4, 4]);
        return net.forward({
          ...{ latents: noise([1, 4, 2, 4, 4]), t: tensor([0.4]) },
          text: { states: noise([1, 3, 12]), mask: tensor([[true, true, true]]) },
          known: { latents: known.narrow(1, 0, 4), mask: known.narrow(1, 4, 4) },
        });
      },
    );
    expect(saved).toBe(left);
    expect(snr).toBeGreaterThan(LEAST_DECIBELS[weights]);
  });

  test("a text encoder; a smaller one stays as it is", async () => {
    const encoder = async (d_model: number): Promise<string> => {
      const path = join(scratch, `t5-${weights}-${d_model}`);
      const config = T5Config.parse({ ...TINY_TEXT.config, d_model, d_kv: 16, num_layers: 2 });
      const how = { device: "cpu", maxTokens: 16, tokenizer: TOKENIZER, clean: true };
      await using fresh = T5TextEncoder.fresh(config, 2, how);
      await fresh.save(path);
      return path;
    };
    const options = { path: await encoder(40), tokenizer: TOKENIZER };
    const { snr, saved, left } = await both(
      ["encodeText", "flan-t5"],
      options,
      (net: TextEncoder) => net.encode(["a red ball rolls over grass"]).states,
    );
    expect(saved).toBe(left);
    expect(snr).toBeGreaterThan(LEAST_DECIBELS[weights]);
    await using ctx = await testContext({ plugins });
    const small = await (await ctx.use("encodeText", "flan-t5", { ...options, path: await encoder(12), weights }))({});
    expect(small.module.loadedBytes()).toBe(small.module.bytes("float32"));
  });
});

describe("refused in one sentence", () => {
  const failure = async (
    input: Record<string, unknown>,
    more: Parameters<typeof testContext>[0] = {},
  ): Promise<WaverError> => {
    await using ctx = await testContext({ plugins, ...more });
    return (await sample(ctx, input).catch((error: unknown) => error)) as WaverError;
  };

  test("a network that has no layers for it", async () => {
    const small = join(scratch, "small");
    cpSync(model, small, { recursive: true });
    rmSync(join(small, "transformer"), { recursive: true });
    using generator = new Generator(1);
    const config = WanConfig.parse({
      ...{ num_attention_heads: 2, attention_head_dim: 12, ffn_dim: 40, freq_dim: 32, num_layers: 1, text_dim: 24 },
    });
    const denoiser = WanDenoiser.init(config, generator, { device: "cpu" });
    for (const weight of denoiser.module.parameters()) normal_(weight, 0, 0.2, generator);
    await denoiser.save(join(small, "transformer"));
    denoiser.module.dispose();
    expect(await failure({ model: small, weights: "int8" })).toMatchObject({
      code: "invalid_input",
      message: expect.stringContaining("linear layers of at least 1024 weights inside a network's blocks"),
      hint: "leave weights out: it is loaded as it is stored",
    });
  });

  test("a family that does not offer it, and a form that nobody knows", async () => {
    const other = provide("family", {
      ...{ id: "wan", summary: "", source: "", runs: "device", options: z.strictObject({ path: z.string() }) },
      traits: { classes: ["WanTransformer3DModel"], tasks: ["t2v"], trainable: false },
      run: async () => ({}) as Denoiser,
    });
    expect(await failure({ weights: "fp8" }, { provide: [other] })).toMatchObject({
      code: "invalid_input",
      message: "weights: wan loads its network as it is stored, not in fp8",
    });
    expect(String(await failure({ weights: "int4" }))).toContain("weights");
  });
});
