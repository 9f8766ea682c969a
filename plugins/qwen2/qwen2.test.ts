import { afterAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allClose, Generator, noGrad, saveSafetensors, scope, setThreads, type Tensor } from "../../native/index.ts";
import { testContext } from "../../test/support/context.ts";
import { DecoderConfig } from "../language.ts";
import { rewritingTask } from "../rewriting.ts";
import { checkProvider, failures } from "../testing.ts";
import { loadDecoder, loadModel, weightBytes } from "./checkpoint.ts";
import { QwenTextEncoder } from "./encoder.ts";
import plugin from "./index.ts";
import { CausalLM } from "./model.ts";
import { readConfig } from "./params.ts";

setThreads(1);
const tokenizer = join(import.meta.dir, "../../test/golden/tokenizer_qwen2_bpe/tokenizer");
const root = mkdtempSync(join(tmpdir(), "qwen2-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const CONFIG = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  vocab_size: 714,
  hidden_size: 24,
  intermediate_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 4096,
  rope_theta: 10_000,
  tie_word_embeddings: false,
};

/** A checkpoint folder with random weights; `shards` files, and the tokenizer inside. */
function checkpoint(name: string, over: Record<string, unknown> = {}, { shards = 1, bare = false } = {}): string {
  const folder = join(root, name);
  mkdirSync(folder, { recursive: true });
  const json = { ...CONFIG, ...over };
  writeFileSync(join(folder, "config.json"), JSON.stringify(json));
  for (const file of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
    copyFileSync(join(tokenizer, file), join(folder, file));
  using generator = new Generator(3);
  using model = new CausalLM(DecoderConfig.parse(json)).init(generator);
  noGrad(() => {
    for (const weight of model.parameters()) if (weight.ndim === 2) weight.mul_(20);
  });
  const entries = [...model.stateDict()].map(([key, value]): [string, Tensor] => [
    bare ? key.replace(/^model\./, "") : key,
    value,
  ]);
  if (shards === 1) {
    saveSafetensors(join(folder, "model.safetensors"), new Map(entries));
    return folder;
  }
  const weight_map: Record<string, string> = {};
  for (let shard = 0; shard < shards; shard++) {
    const file = `model-0000${shard + 1}-of-0000${shards}.safetensors`;
    const part = entries.filter((_, i) => i % shards === shard);
    for (const [key] of part) weight_map[key] = file;
    saveSafetensors(join(folder, file), new Map(part));
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map }));
  return folder;
}

const settings = { device: "cpu", maxTokens: 12 } as const;
const whole = checkpoint("whole");
/** A prompt's states from a folder. */
async function statesOf(folder: string, text = "Two people are paddling"): Promise<number[]> {
  await using encoder = QwenTextEncoder.load(folder, settings);
  return scope(() => encoder.encode([text]).states.toNumbers());
}

describe("the text encoder", () => {
  test("a text means the same alone, in a batch and padded; rows after it are zero", async () => {
    await using encoder = QwenTextEncoder.load(whole, settings);
    scope(() => {
      const texts = ["a red ball", "", "two blue squares on a long grey road and more"];
      const together = noGrad(() => encoder.encode(texts, { padTo: 16 }));
      expect(together.states.shape).toEqual([3, 16, 24]);
      for (const [i, text] of texts.entries()) {
        const length = encoder.tokenize([text])[0]?.length as number;
        const alone = noGrad(() => encoder.encode([text]));
        expect(alone.states.shape).toEqual([1, Math.max(1, length), 24]);
        const row = together.states.select(0, i);
        expect(allClose(row.narrow(0, 0, length), alone.states.select(0, 0).narrow(0, 0, length), { atol: 1e-5 })).toBe(
          true,
        );
        expect(
          row
            .narrow(0, length, 16 - length)
            .abs()
            .sum()
            .item(),
        ).toBe(0);
        expect(together.mask.select(0, i).float().sum().item()).toBe(length);
      }
      expect(encoder.tokenize(["word ".repeat(400)])[0]).toHaveLength(12);
    });
  });

  test("reads sharded and bare checkpoints, both forms of RoPE, and its own save alike", async () => {
    const want = await statesOf(whole);
    const forms = [
      checkpoint("sharded", {}, { shards: 3 }),
      checkpoint("bare", { architectures: ["Qwen2Model"] }, { bare: true }),
      checkpoint("nested", { rope_theta: undefined, rope_parameters: { rope_theta: 10_000, rope_type: "default" } }),
    ];
    for (const folder of forms) expect(await statesOf(folder)).toEqual(want);
    await using encoder = QwenTextEncoder.load(whole, settings);
    const saved = join(root, "saved");
    await encoder.save(saved);
    expect(await statesOf(saved)).toEqual(want);
    expect(await statesOf(checkpoint("other", { rope_theta: 500 }))).not.toEqual(want);
    // MODEL/text_encoder_2 with its tokenizer beside it
    const pipeline = join(root, "pipeline");
    mkdirSync(pipeline);
    await encoder.save(join(pipeline, "text_encoder_2"));
    rmSync(join(pipeline, "text_encoder_2/tokenizer.json"));
    mkdirSync(join(pipeline, "tokenizer_2"));
    copyFileSync(join(tokenizer, "tokenizer.json"), join(pipeline, "tokenizer_2/tokenizer.json"));
    expect(await statesOf(join(pipeline, "text_encoder_2"))).toEqual(want);
  });

  test("its layers go in 8 bits, and its claim says so", async () => {
    const folder = checkpoint("wide", { hidden_size: 64, intermediate_size: 96 });
    const states = await statesOf(folder);
    for (const [weights, decibels] of [
      ["int8", 20],
      ["fp8", 10],
    ] as const) {
      await using encoder = QwenTextEncoder.load(folder, { ...settings, weights });
      const rounded = scope(() => encoder.encode(["Two people are paddling"]).states.toNumbers());
      const power = (of: (i: number) => number): number => states.reduce((sum, _, i) => sum + of(i) ** 2, 0);
      const noise = power((i) => (rounded[i] as number) - (states[i] as number));
      // one product is 44 or 32 dB from that of the stored weights, and these weights make attention sharp
      expect(10 * Math.log10(power((i) => states[i] as number) / noise)).toBeGreaterThan(decibels);
      expect(noise).toBeGreaterThan(0);
      expect(encoder.module.embed_tokens.weight.dtype).toBe("float32");
      using shapes = loadDecoder(folder, { device: "meta", weights });
      expect(shapes.loadedBytes()).toBe(encoder.module.loadedBytes());
      expect(encoder.module.loadedBytes()).toBeLessThan(0.6 * weightBytes(folder, { head: false }));
    }
  });

  test("its size is known from the headers; bf16 halves it", () => {
    const floats = readConfig(whole);
    using model = new CausalLM(floats);
    expect(weightBytes(whole, { head: true })).toBe(model.bytes("float32"));
    expect(weightBytes(whole, { head: false }, "bfloat16")).toBe(model.model.bytes("bfloat16"));
  });
});

describe("checkpoints", () => {
  test("a tied head is the embedding, whether or not the file repeats it; Llama has no biases", () => {
    const tied = checkpoint("tied", { tie_word_embeddings: true });
    const llama = checkpoint("llama", {
      model_type: "llama",
      tie_word_embeddings: true,
      head_dim: 8,
      num_key_value_heads: undefined,
    });
    for (const folder of [tied, llama]) {
      using model = loadModel(folder, { device: "cpu" });
      expect(model.lm_head).toBeUndefined();
      expect([...model.stateDict().keys()].some((key) => key.endsWith("bias"))).toBe(folder === tied);
      const repeated = join(root, `${folder === tied ? "tied" : "llama"}-repeated`);
      mkdirSync(repeated);
      copyFileSync(join(folder, "config.json"), join(repeated, "config.json"));
      saveSafetensors(
        join(repeated, "model.safetensors"),
        new Map([...model.stateDict(), ["lm_head.weight", model.model.embed_tokens.weight]]),
      );
      using again = loadModel(repeated, { device: "cpu" });
      const say = (each: CausalLM): unknown[] => [...each.generate([[5, 6, 7]], { maxTokens: 6 })];
      expect(say(again)).toEqual(say(model));
    }
  });

  test.each([
    [{ use_sliding_window: true }, "sliding-window attention is not supported"],
    [{ rope_scaling: { type: "yarn", factor: 4 } }, "positions of type yarn are not supported"],
    [{ hidden_act: "gelu" }, "only hidden_act silu"],
    [{ num_key_value_heads: 3 }, "4 heads cannot share 3 heads of keys"],
    [{ model_type: "llama", attention_bias: true }, "attention_bias is not supported"],
    [{ model_type: "gpt2" }, "model_type"],
    [{ quantization_config: { bits: 4 } }, "quantised checkpoints are not supported"],
    [{ rope_theta: undefined }, "rope_theta is missing"],
  ])("what the decoder does not do is refused by name: %j", (over, message) => {
    const folder = join(root, "refused");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "config.json"), JSON.stringify({ ...CONFIG, ...over }));
    expect(() => readConfig(folder)).toThrow(message);
  });
});

describe("the rewriter", () => {
  const provider = plugin.provides.find(({ hook }) => hook === "rewrite")?.provider as never;

  test("keeps the promise of its hook and stops when cancelled", async () => {
    await using ctx = await testContext({ plugins: ["qwen2"] });
    const open = (signal: AbortSignal) => ({ ...ctx, signal, breathe: async () => signal.throwIfAborted() });
    const options = { path: whole, maxTokens: 6 };
    expect(
      failures(
        await checkProvider("rewrite", provider, {
          options,
          ctx: open,
          inputs: [() => ({ text: "a ball", negative: "" })],
        }),
      ),
    ).toEqual([]);
  });

  test("equal seeds answer alike, an answer is remembered, and the two lengths are asked differently", async () => {
    await using ctx = await testContext({ plugins: ["qwen2"] });
    const options = { path: whole, maxTokens: 10, temperature: 1.2, cache: join(root, "answers") };
    const say = async (seed: number, seconds: number, cache = options.cache): Promise<string> => {
      const rewrite = await ctx.use("rewrite", "local", { ...options, seed, cache });
      return (await rewrite({ text: "a red ball rolls over grass", negative: "blur", seconds })).text;
    };
    const first = await say(1, 5);
    expect(first).not.toBe("a red ball rolls over grass");
    expect(await say(1, 5, join(root, "elsewhere"))).toBe(first);
    expect(await say(2, 5)).not.toBe(first);
    expect(await say(1, 10)).not.toBe(first);
    const before = ctx.logged.length;
    expect(await say(1, 5)).toBe(first);
    expect(ctx.logged.slice(before)).toEqual([
      { event: "prompt_rewritten", fields: { from: "a red ball rolls over grass", to: first, known: true } },
    ]);
    const [usual, long] = [rewritingTask("a ball"), rewritingTask("a ball", { seconds: 10 })];
    expect(usual).toEqual(rewritingTask("a ball", { seconds: 5 }));
    expect(long[0]?.content).toContain("about 10 seconds");
    const captions = long
      .filter(({ role }) => role === "assistant")
      .map(({ content }) => String(content).split(" ").length);
    // the examples are as long as what the instruction asks for
    for (const words of captions) expect(words).toBeGreaterThanOrEqual(100);
    expect(long.at(-1)).toEqual({ role: "user", content: "a ball" });
  });

  test("says what is missing, or too long", async () => {
    await using ctx = await testContext({ plugins: ["qwen2"] });
    await expect(ctx.use("rewrite", "local", {})).rejects.toMatchObject({ code: "needs_unmet" });
    const rewrite = await ctx.use("rewrite", "local", { path: whole, maxTokens: 10 });
    await expect(rewrite({ text: "word ".repeat(4000), negative: "" })).rejects.toMatchObject({ code: "too_large" });
    const silent = checkpoint("silent");
    rmSync(join(silent, "chat_template.jinja"));
    await expect(ctx.use("rewrite", "local", { path: silent })).rejects.toMatchObject({ code: "checkpoint_missing" });
    await using configured = await testContext({ plugins: ["qwen2"], config: { qwen2: { rewriter: whole } } });
    expect(await configured.use("rewrite", "local", { maxTokens: 2 })).toBeFunction();
    await testContext({ plugins: ["qwen2"] }).then((each) => each[Symbol.asyncDispose]());
  });
});
