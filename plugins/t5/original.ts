/**
 * umT5 outside Transformers: under the names of Wan's own code (wan/modules/t5.py of Wan 2.1), and as a single file without a
 * configuration, which its shapes tell (Wan's own, ComfyUI's).
 */
import type { Checkpoint, Weights } from "../../native/index.ts";
import { WaverError } from "../index.ts";
import { T5Config } from "./params.ts";

/** Names in a block, theirs to ours. The gate is what goes through GELU. */
const IN_BLOCK: Readonly<Record<string, string>> = {
  norm1: "layer.0.layer_norm",
  "attn.q": "layer.0.SelfAttention.q",
  "attn.k": "layer.0.SelfAttention.k",
  "attn.v": "layer.0.SelfAttention.v",
  "attn.o": "layer.0.SelfAttention.o",
  "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
  norm2: "layer.1.layer_norm",
  "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
  "ffn.fc1": "layer.1.DenseReluDense.wi_1",
  "ffn.fc2": "layer.1.DenseReluDense.wo",
};
const OUTSIDE: Readonly<Record<string, string>> = {
  token_embedding: "shared",
  norm: "encoder.final_layer_norm",
};
const EMBEDDING = "token_embedding.weight";

export const isOriginal = (file: Pick<Checkpoint, "has">): boolean => file.has(EMBEDDING);

/** Our name for a weight of theirs; undefined for one that the encoder has no place for. */
export function ourName(key: string): string | undefined {
  const layer = key.replace(/\.weight$/, "");
  const [, block, rest] = /^blocks\.(\d+)\.(.+)$/.exec(layer) ?? [];
  const ours = block === undefined ? OUTSIDE[layer] : IN_BLOCK[rest as string];
  if (ours === undefined) return undefined;
  return `${block === undefined ? "" : `encoder.block.${block}.`}${ours}.weight`;
}

/** The configuration of a umT5 that comes without one; `weights` under our names. */
export function toldByWeights({ keys, info }: Pick<Weights, "keys" | "info">, path: string): T5Config {
  const sides = (key: string): [number, number] => {
    if (keys.includes(key)) return info(key).shape as [number, number];
    throw new WaverError("checkpoint_invalid", `${path} lacks ${key}, without which it is no umT5 encoder`, {
      hint: "name a folder with the encoder's config.json, or a file that holds all of it",
    });
  };
  const inBlock = (key: string): [number, number] => sides(`encoder.block.0.layer.${key}.weight`);
  const [vocab_size, d_model] = sides("shared.weight");
  const [buckets, num_heads] = inBlock("0.SelfAttention.relative_attention_bias");
  return T5Config.parse({
    model_type: "umt5",
    ...{ vocab_size, d_model, num_heads },
    d_kv: inBlock("0.SelfAttention.q")[0] / num_heads,
    d_ff: inBlock("1.DenseReluDense.wi_0")[0],
    num_layers: keys.filter((key) => /^encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight$/.test(key)).length,
    relative_attention_num_buckets: buckets,
    feed_forward_proj: "gated-gelu",
  });
}
