/**
 * What the folder of a language model says beside its weights: `config.json` of decoders in the shape of Llama and Qwen2,
 * and `generation_config.json`. Read here for every plugin that has such a decoder inside; the network is native/nn/decoder.ts.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { Context } from "./define.ts";
import { WaverError } from "./errors.ts";

/** A JSON file of a checkpoint folder, by a schema. `whose` says what the folder should be. */
export function readJson<S extends z.ZodType>(folder: string, name: string, schema: S, whose: string): z.output<S> {
  const path = join(folder, name);
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} holds no ${name}`, {
      hint: `path must name the folder of ${whose}`,
    });
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new WaverError("checkpoint_invalid", `${path} is not JSON`, { cause });
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

/** Published checkpoints have `rope_theta` and `rope_scaling`, transformers 5 writes both as `rope_parameters`. */
const Rope = z.looseObject({
  rope_theta: z.number().positive().optional(),
  rope_type: z.string().optional(),
  /** The older name of `rope_type`. */
  type: z.string().optional(),
  mrope_section: z.array(z.int().positive()).length(3).optional(),
});

/** Biases on q, k and v: always in Qwen2's own kinds, where the configuration says so in Llama's. */
const KINDS = { qwen2: true, qwen2_5_vl: true, qwen2_5_vl_text: true, llama: false } as const;

/** Refuses by name what the decoder does not do, so that no checkpoint is read as something that it is not. */
export const DecoderConfig = z
  .looseObject({
    model_type: z.enum(Object.keys(KINDS) as [keyof typeof KINDS, ...(keyof typeof KINDS)[]]),
    vocab_size: z.int().positive(),
    hidden_size: z.int().positive(),
    intermediate_size: z.int().positive(),
    num_hidden_layers: z.int().positive(),
    num_attention_heads: z.int().positive(),
    num_key_value_heads: z.int().positive().optional(),
    head_dim: z.int().positive().nullish(),
    hidden_act: z.literal("silu", { error: "only hidden_act silu is supported" }).default("silu"),
    rms_norm_eps: z.number().positive().default(1e-6),
    tie_word_embeddings: z.boolean().default(false),
    max_position_embeddings: z.int().positive(),
    rope_theta: z.number().positive().optional(),
    rope_scaling: Rope.nullish(),
    rope_parameters: Rope.nullish(),
    attention_bias: z.boolean().default(false),
    mlp_bias: z.literal(false, { error: "biases in the MLP are not supported" }).default(false),
    use_sliding_window: z
      .literal(false, {
        error: "sliding-window attention is not supported; published Qwen2.5 checkpoints do not use it",
      })
      .default(false),
    quantization_config: z
      .undefined({ error: "quantised checkpoints are not supported: use the float one" })
      .optional(),
  })
  .transform((config, ctx) => {
    const refuse = (message: string) => ctx.addIssue({ code: "custom", message });
    const { model_type, hidden_size, num_attention_heads: heads } = config;
    const kvHeads = config.num_key_value_heads ?? heads;
    const head_dim = config.head_dim ?? hidden_size / heads;
    const rope = config.rope_parameters ?? config.rope_scaling ?? {};
    const kind = rope.rope_type ?? rope.type ?? "default";
    const rope_theta = rope.rope_theta ?? config.rope_theta;
    if (!Number.isInteger(head_dim) || head_dim % 2 !== 0)
      refuse(`a head of ${head_dim} cannot be rotated: it must be even`);
    if (heads % kvHeads !== 0) refuse(`${heads} heads cannot share ${kvHeads} heads of keys`);
    if (model_type === "llama" && config.attention_bias)
      refuse("attention_bias is not supported in a Llama checkpoint");
    if (kind !== "default" && kind !== "mrope") refuse(`positions of type ${kind} are not supported, only the default`);
    if (rope_theta === undefined) refuse("rope_theta is missing");
    return {
      vocab_size: config.vocab_size,
      hidden_size,
      intermediate_size: config.intermediate_size,
      num_hidden_layers: config.num_hidden_layers,
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      head_dim,
      rms_norm_eps: config.rms_norm_eps,
      qkv_bias: KINDS[model_type],
      rope_theta: rope_theta ?? 1,
      mrope_section: rope.mrope_section,
      tie_word_embeddings: config.tie_word_embeddings,
      max_position_embeddings: config.max_position_embeddings,
    };
  });
export type DecoderConfig = z.output<typeof DecoderConfig>;

const Token = z.int().nonnegative();
const Tokens = z.union([Token, z.array(Token)]).nullish();

/** How a checkpoint's makers mean it to be sampled, and which tokens end an answer. */
export const GenerationConfig = z.looseObject({
  eos_token_id: Tokens,
  do_sample: z.boolean().optional(),
  temperature: z.number().nonnegative().nullish(),
  top_k: z.int().nonnegative().nullish(),
  top_p: z.number().positive().nullish(),
  repetition_penalty: z.number().positive().nullish(),
});
/** With `stop`, the tokens that end an answer. */
export type Generation = z.output<typeof GenerationConfig> & { readonly stop: readonly number[] };

/** `generation_config.json`, or the end token of `config.json` where that file is absent. */
export function readGeneration(folder: string): Generation {
  const name = existsSync(join(folder, "generation_config.json")) ? "generation_config.json" : "config.json";
  const config = readJson(folder, name, GenerationConfig, "a language model");
  return { ...config, stop: [config.eos_token_id ?? []].flat() };
}

/** Options of every provider that lets a language model write. */
export const writingOptions = {
  maxTokens: z.int().positive().default(400).describe("most tokens of an answer"),
  seed: z.int().nonnegative().default(0).describe("equal seeds give equal answers"),
  temperature: z.number().min(0).max(2).optional().describe("0: the best token; the model's own when absent"),
  topK: z.int().positive().optional().describe("only so many of the best tokens; the model's own when absent"),
  topP: z.number().positive().max(1).optional().describe("only the best tokens of this probability together"),
  repetitionPenalty: z.number().positive().optional().describe("above 1: says less of what was said"),
};
export type WritingOptions = z.output<z.ZodObject<typeof writingOptions>>;

/** Options of every captioner that is a vision-language model on this machine. */
export const captionOptions = ({ instruction, maxFrames }: { instruction: string; maxFrames: number }) =>
  z.strictObject({
    path: z.string().optional().describe("folder with config.json, weights, tokenizer and chat template"),
    instruction: z.string().default(instruction).describe("what the model is asked"),
    maxFrames: z.int().min(1).max(maxFrames).default(32).describe("frames seen, spread over the clip"),
    ...writingOptions,
    dtype: z.enum(["float32", "bfloat16"]).optional().describe("precision of the weights; as stored when absent"),
  });
export type CaptionOptions = z.output<ReturnType<typeof captionOptions>>;

/** How tokens are chosen: what the request says, else what the checkpoint's makers say. */
export function choiceOf(
  options: WritingOptions,
  { do_sample, temperature, top_k, top_p, repetition_penalty }: Generation,
): { temperature: number; topK: number | undefined; topP: number | undefined; repetitionPenalty: number } {
  return {
    temperature: options.temperature ?? (do_sample === true ? (temperature ?? 1) : 0),
    topK: options.topK ?? (top_k || undefined),
    topP: options.topP ?? top_p ?? undefined,
    repetitionPenalty: options.repetitionPenalty ?? repetition_penalty ?? 1,
  };
}

/** Refuses what would run past the last position that a model was trained on. */
export function checkRoom(what: string, tokens: number, maxTokens: number, positions: number, hint: string): void {
  if (tokens + maxTokens > positions)
    throw new WaverError(
      "too_large",
      `${what} takes ${tokens} tokens with its instruction, and ${maxTokens} are kept for the answer; the model takes ${positions}`,
      { hint },
    );
}

/** Follows the writing of one answer to its end; cancelled within a token. */
export async function written(
  steps: Iterable<readonly (number | null)[]>,
  { stop }: Generation,
  ctx: Context,
): Promise<number[]> {
  const tokens: number[] = [];
  for (const [token] of steps) {
    if (token != null && !stop.includes(token)) tokens.push(token);
    await ctx.breathe();
  }
  return tokens;
}
