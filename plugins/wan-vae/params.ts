/** The configuration of an AutoencoderKLWan, in the words of its `config.json`. */
import { z } from "../index.ts";

export const VaeConfig = z.object({
  /** Channels of the widest layers (in space) of the encoder; the decoder's own when `decoder_base_dim` is set. */
  base_dim: z.int().positive().default(96),
  decoder_base_dim: z.int().positive().nullish(),
  /** Latent channels. */
  z_dim: z.int().positive().default(16),
  /** Width of each level, as multiples of the base. Every level but the last halves the sides. */
  dim_mult: z.array(z.int().positive()).min(1).default([1, 2, 4, 4]),
  num_res_blocks: z.int().positive().default(2),
  /** Scales with extra attention; no published checkpoint has any. */
  attn_scales: z
    .array(z.number())
    .max(0, "attention at extra scales is not supported: no published Wan VAE uses it")
    .default([]),
  /** Which levels also halve the frames (spelled as in the checkpoints). */
  temperal_downsample: z.array(z.boolean()).default([false, true, true]),
  dropout: z.number().default(0),
  latents_mean: z.array(z.number()),
  latents_std: z.array(z.number().positive()),
  /** Wan 2.2: every level has a parameter-free shortcut around it. */
  is_residual: z.boolean().default(false),
  /** Channels the encoder sees and the decoder makes: 3 x patch_size^2. */
  in_channels: z.int().positive().default(3),
  out_channels: z.int().positive().default(3),
  /** Wan 2.2: pixels folded into channels before the encoder. */
  patch_size: z.int().positive().nullish(),
});
export type VaeConfig = z.output<typeof VaeConfig>;

/** Pixels (frames, rows, columns) that one latent element stands for. */
export function stride(config: VaeConfig): [number, number, number] {
  const halvings = config.dim_mult.length - 1;
  const side = 2 ** halvings * (config.patch_size ?? 1);
  return [2 ** config.temperal_downsample.slice(0, halvings).filter(Boolean).length, side, side];
}
