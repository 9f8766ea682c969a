/** The configuration of DINOv2, with and without registers, in the words of Transformers' `config.json`. */
import { z } from "../index.ts";

export const Dinov2Config = z
  .object({
    model_type: z.enum(["dinov2", "dinov2_with_registers"], { error: "this is no DINOv2" }),
    hidden_size: z.int().positive().default(768),
    num_hidden_layers: z.int().positive().default(12),
    num_attention_heads: z.int().positive().default(12),
    mlp_ratio: z.number().positive().default(4),
    hidden_act: z.enum(["gelu", "gelu_pytorch_tanh"]).default("gelu"),
    layer_norm_eps: z.number().positive().default(1e-6),
    image_size: z.int().positive().default(224),
    patch_size: z.int().positive().default(16),
    num_channels: z.int().positive().default(3),
    qkv_bias: z.boolean().default(true),
    layerscale_value: z.number().default(1),
    /** The giant model's feed-forward (Shazeer 2020) instead of two layers with a GELU. */
    use_swiglu_ffn: z.boolean().default(false),
    use_mask_token: z.boolean().default(true),
    num_register_tokens: z.int().nonnegative().default(4),
  })
  .refine((config) => config.hidden_size % config.num_attention_heads === 0, {
    error: "hidden_size is no multiple of num_attention_heads",
  })
  .transform((config) => ({
    ...config,
    num_register_tokens: config.model_type === "dinov2" ? 0 : config.num_register_tokens,
    use_mask_token: config.model_type === "dinov2" ? config.use_mask_token : true,
  }));
export type Dinov2Config = z.output<typeof Dinov2Config>;

/** Width inside the gated feed-forward: two thirds of the plain one's, rounded up to 8. */
export const gatedWidth = ({ hidden_size, mlp_ratio }: Dinov2Config): number =>
  Math.ceil(Math.floor((Math.floor(hidden_size * mlp_ratio) * 2) / 3) / 8) * 8;
