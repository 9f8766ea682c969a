/** The configuration of CLIP's towers, in the words of Transformers' `config.json`; defaults are those of its classes. */
import { z } from "../index.ts";

/** OpenAI's models use the quick one; OpenCLIP's larger ones (ViT-H, Wan's) the exact one. */
const Activation = z.enum(["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"]);

const tower = (hidden: number, intermediate: number, heads: number) => ({
  hidden_size: z.int().positive().default(hidden),
  intermediate_size: z.int().positive().default(intermediate),
  num_hidden_layers: z.int().positive().default(12),
  num_attention_heads: z.int().positive().default(heads),
  hidden_act: Activation.default("quick_gelu"),
  layer_norm_eps: z.number().positive().default(1e-5),
  projection_dim: z.int().positive().default(512),
});
const dividing = {
  check: (config: { hidden_size: number; num_attention_heads: number }) =>
    config.hidden_size % config.num_attention_heads === 0,
  message: "hidden_size is no multiple of num_attention_heads",
};

export const VisionConfig = z
  .object({
    ...tower(768, 3072, 12),
    num_channels: z.int().positive().default(3),
    image_size: z.int().positive().default(224),
    patch_size: z.int().positive().default(32),
  })
  .refine(dividing.check, dividing.message);
export type VisionConfig = z.output<typeof VisionConfig>;

export const TextConfig = z
  .object({
    ...tower(512, 2048, 8),
    vocab_size: z.int().positive().default(49408),
    max_position_embeddings: z.int().positive().default(77),
    eos_token_id: z.int().nonnegative().default(49407),
    pad_token_id: z.int().nonnegative().default(1),
  })
  .refine(dividing.check, dividing.message);
export type TextConfig = z.output<typeof TextConfig>;

const Tower = z.record(z.string(), z.unknown()).nullish();
/** Both towers. Files of 2022 repeat each tower as `*_config_dict`, which then counts (Transformers, CLIPConfig). */
export const ClipConfig = z
  .object({
    vision_config: Tower,
    text_config: Tower,
    vision_config_dict: Tower,
    text_config_dict: Tower,
    projection_dim: z.int().positive().default(512),
    /** ln(1 / 0.07), where training starts. */
    logit_scale_init_value: z.number().default(2.6592),
  })
  .transform((file, ctx) => {
    const vision = VisionConfig.safeParse(file.vision_config_dict ?? file.vision_config ?? {});
    const text = TextConfig.safeParse(file.text_config_dict ?? file.text_config ?? {});
    for (const [name, parsed] of [
      ["vision_config", vision],
      ["text_config", text],
    ] as const)
      for (const issue of parsed.error?.issues ?? [])
        ctx.addIssue({ code: "custom", message: issue.message, path: [name, ...issue.path] });
    if (!vision.success || !text.success) return z.NEVER;
    return {
      vision: vision.data,
      text: text.data,
      projection_dim: file.projection_dim,
      logit_scale_init_value: file.logit_scale_init_value,
    };
  });
export type ClipConfig = z.output<typeof ClipConfig>;
