/** The configuration of a WanTransformer3DModel, in the words of its `config.json`. */
import { z } from "../index.ts";

export const WanConfig = z.object({
  /** Frames, rows and columns of one token. */
  patch_size: z.tuple([z.int().positive(), z.int().positive(), z.int().positive()]).default([1, 2, 2]),
  num_attention_heads: z.int().positive(),
  attention_head_dim: z.int().positive(),
  /** More than `out_channels` in models that continue an image: mask and image latents ride along. */
  in_channels: z.int().positive().default(16),
  out_channels: z.int().positive().default(16),
  text_dim: z.int().positive(),
  freq_dim: z.int().positive().default(256),
  ffn_dim: z.int().positive(),
  num_layers: z.int().positive(),
  cross_attn_norm: z.boolean().default(true),
  qk_norm: z.literal("rms_norm_across_heads").default("rms_norm_across_heads"),
  eps: z.number().positive().default(1e-6),
  /** Width of the image encoder's tokens, in Wan 2.1 image-to-video. */
  image_dim: z.int().positive().nullish(),
  added_kv_proj_dim: z.int().positive().nullish(),
  rope_max_seq_len: z.int().positive().default(1024),
  /** Image tokens of first and last frame together, which then have positions. */
  pos_embed_seq_len: z.int().positive().nullish(),
});
export type WanConfig = z.output<typeof WanConfig>;

/** The `config.json` of Wan's own repositories: what cannot be told from the weights, and what is held to them. */
export const OriginalConfig = z.object({
  dim: z.int().positive(),
  num_heads: z.int().positive(),
  num_layers: z.int().positive(),
  eps: z.number().positive().default(1e-6),
});
export type OriginalConfig = z.output<typeof OriginalConfig>;

/** Tokens of text that stand in every Wan checkpoint's cross-attention (diffusers hard-codes the cut as well). */
export const TEXT_LENGTH = 512;

/** Kept in float32 when a checkpoint is loaded in less (diffusers, `_keep_in_fp32_modules`): any name with one of these in it. */
const FLOAT32 = ["time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"];
export const keepsFloat32 = (name: string): boolean => FLOAT32.some((part) => name.includes(part));
