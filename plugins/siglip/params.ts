/** The configuration of SigLIP's towers, in the words of Transformers' `config.json`; defaults are those of its classes. */
import { z } from "../index.ts";

const tower = {
  hidden_size: z.int().positive().default(768),
  intermediate_size: z.int().positive().default(3072),
  num_hidden_layers: z.int().positive().default(12),
  num_attention_heads: z.int().positive().default(12),
  hidden_act: z.enum(["gelu_pytorch_tanh", "gelu"]).default("gelu_pytorch_tanh"),
  layer_norm_eps: z.number().positive().default(1e-6),
};
const divides = (config: { hidden_size: number; num_attention_heads: number }): boolean =>
  config.hidden_size % config.num_attention_heads === 0;
const DIVIDES = "hidden_size is no multiple of num_attention_heads";

export const VisionConfig = z
  .object({
    ...tower,
    num_channels: z.int().positive().default(3),
    image_size: z.int().positive().default(224),
    patch_size: z.int().positive().default(16),
    /** Pools the patches by attention; towers cut out for language models come without. */
    vision_use_head: z.boolean().default(true),
  })
  .refine(divides, DIVIDES);
export type VisionConfig = z.output<typeof VisionConfig>;

export const TextConfig = z
  .object({
    ...tower,
    vocab_size: z.int().positive().default(32000),
    max_position_embeddings: z.int().positive().default(64),
    /** Width of the space that both towers meet in; the text's own when absent. */
    projection_size: z.int().positive().nullish(),
  })
  .refine(divides, DIVIDES);
export type TextConfig = z.output<typeof TextConfig>;

/** Both towers: `SiglipModel`. */
export const SiglipConfig = z.object({ vision_config: VisionConfig, text_config: TextConfig.prefault({}) });
export type SiglipConfig = z.output<typeof SiglipConfig>;
