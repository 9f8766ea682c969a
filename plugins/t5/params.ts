/** The configuration of a T5 or umT5 encoder, in the words of its `config.json`. */
import { z } from "../index.ts";

export const T5Config = z.object({
  model_type: z.enum(["t5", "umt5", "mt5"]).default("t5"),
  vocab_size: z.int().positive(),
  d_model: z.int().positive(),
  /** Width of one head; heads * d_kv need not be d_model. */
  d_kv: z.int().positive(),
  d_ff: z.int().positive(),
  num_layers: z.int().positive(),
  num_heads: z.int().positive(),
  relative_attention_num_buckets: z.int().positive().default(32),
  relative_attention_max_distance: z.int().positive().default(128),
  layer_norm_epsilon: z.number().positive().default(1e-6),
  feed_forward_proj: z.literal("gated-gelu", {
    error: "only T5 1.1 and later (feed_forward_proj gated-gelu) is supported",
  }),
  eos_token_id: z.int().default(1),
  pad_token_id: z.int().default(0),
});
export type T5Config = z.output<typeof T5Config>;

/** umT5 learns a table of distances in every layer, T5 one in the first, which all others use. */
export const biasInEveryLayer = (config: T5Config): boolean => config.model_type === "umt5";
