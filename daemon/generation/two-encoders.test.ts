import { afterAll, beforeAll, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, normal_, openSafetensors, saveSafetensors, scope, setThreads } from "../../native/index.ts";
import { DecoderConfig } from "../../plugins/language.ts";
import { CausalLM } from "../../plugins/qwen2/model.ts";
import { T5TextEncoder } from "../../plugins/t5/encoder.ts";
import { T5Config } from "../../plugins/t5/params.ts";
import { fresh, save } from "../../plugins/waver/checkpoint.ts";
import { WaverParams } from "../../plugins/waver/params.ts";
import { runOperation, testContext } from "../../test/support/context.ts";
import { TINY_NETWORK, TINY_TEXT, tinyVae } from "../../test/support/tiny-model.ts";
import { generate } from "../operations/generate.ts";

setThreads(1);
const scratch = mkdtempSync(join(tmpdir(), "two-encoders-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const bpe = join(import.meta.dir, "../../test/golden/tokenizer_qwen2_bpe/tokenizer");

/** Waver's own pair: a T5, and a Qwen2 from its own seed. */
async function pipeline(name: string, qwenSeed: number): Promise<string> {
  const folder = join(scratch, name);
  using generator = new Generator(1);
  await tinyVae(join(folder, "vae"));
  const { config, tokenizer, maxTokens } = TINY_TEXT;
  await using t5 = T5TextEncoder.fresh(T5Config.parse(config), 4, { device: "cpu", maxTokens, tokenizer, clean: true });
  await t5.save(join(folder, "text_encoder"));
  cpSync(tokenizer, join(folder, "tokenizer"), { recursive: true });
  cpSync(bpe, join(folder, "tokenizer_2"), { recursive: true });
  const qwen = {
    ...{ model_type: "qwen2", vocab_size: 714, hidden_size: 24, intermediate_size: 32, num_hidden_layers: 2 },
    ...{ num_attention_heads: 4, num_key_value_heads: 2, rope_theta: 1e6, max_position_embeddings: 128 },
  };
  mkdirSync(join(folder, "text_encoder_2"));
  writeFileSync(join(folder, "text_encoder_2/config.json"), JSON.stringify(qwen));
  using seeded = new Generator(qwenSeed);
  using language = new CausalLM(DecoderConfig.parse(qwen)).init(seeded);
  saveSafetensors(join(folder, "text_encoder_2/model.safetensors"), language.stateDict());
  using network = fresh(WaverParams.parse({ ...TINY_NETWORK.config, qwen_dim: 24, max_qwen: 64 }), 1);
  for (const weight of network.parameters()) normal_(weight, 0, 0.2, generator); // fresh gates are zero: nothing would matter
  await save(network, join(folder, "transformer"));
  mkdirSync(join(folder, "scheduler"));
  writeFileSync(join(folder, "scheduler/scheduler_config.json"), JSON.stringify({ _class_name: "WaverFlowScheduler" }));
  const index = {
    _class_name: "WaverPipeline",
    _waver: { defaults: { width: 32, height: 32, numFrames: 5, fps: 8, numSteps: 2 } },
    transformer: ["waver", "WaverTransformer3DModel"],
    vae: ["diffusers", "AutoencoderKLWan"],
    text_encoder: ["transformers", "T5EncoderModel"],
    text_encoder_2: ["transformers", "Qwen2ForCausalLM"],
    scheduler: ["waver", "WaverFlowScheduler"],
  };
  writeFileSync(join(folder, "model_index.json"), JSON.stringify(index));
  return folder;
}

let models: string[] = [];
beforeAll(async () => {
  models = [await pipeline("one", 7), await pipeline("other", 8)];
});

async function latentsOf(input: Record<string, unknown>): Promise<Float32Array[]> {
  await using ctx = await testContext({
    plugins: ["t5", "qwen2", "wan-vae", "waver", "flow", "guide-cfg", "storage-local"],
  });
  const { items } = (await runOperation(generate, { keepLatents: true, ...input }, ctx)) as {
    items: { latents: string }[];
  };
  return items.map(({ latents }) => {
    using file = openSafetensors(latents);
    return scope(() => file.get("latents").toFloat32Array());
  });
}
const distance = (a: Float32Array, b: Float32Array): number =>
  Math.max(...a.map((x, i) => Math.abs(x - (b[i] as number))));

test("both encoders reach the network, and padding of either does not, an empty prompt included", async () => {
  const prompts = ["a red ball rolls", "two people paddle down a long river in two yellow kayaks", "a"];
  const model = models[0] as string;
  const together = await latentsOf({ model, prompt: prompts, seed: [5], batchSize: 3 });
  const spread = distance(together[0] as Float32Array, together[1] as Float32Array);
  expect(spread).toBeGreaterThan(1e-3);
  for (const [i, prompt] of prompts.entries()) {
    const [alone] = await latentsOf({ model, prompt, seed: [5] });
    expect(distance(alone as Float32Array, together[i] as Float32Array)).toBeLessThan(spread / 100);
  }
  const [other] = await latentsOf({ model: models[1], prompt: prompts[0], seed: [5] });
  expect(distance(other as Float32Array, together[0] as Float32Array)).toBeGreaterThan(1e-4);
});
