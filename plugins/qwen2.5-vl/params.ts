/** The configuration of a Qwen2.5-VL checkpoint, in the words of its `config.json` and `preprocessor_config.json`. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "../index.ts";
import { DecoderConfig, readJson } from "../language.ts";

export const VisionConfig = z
  .looseObject({
    depth: z.int().positive(),
    hidden_size: z.int().positive(),
    intermediate_size: z.int().positive(),
    num_heads: z.int().positive(),
    hidden_act: z.literal("silu", { error: "only hidden_act silu is supported" }).default("silu"),
    in_channels: z.int().positive().optional(),
    /** The name of `in_channels` in published checkpoints. */
    in_chans: z.int().positive().optional(),
    out_hidden_size: z.int().positive(),
    patch_size: z.int().positive(),
    spatial_merge_size: z.int().positive().default(2),
    temporal_patch_size: z.int().positive().default(2),
    tokens_per_second: z.number().positive().default(2),
    window_size: z.int().positive(),
    fullatt_block_indexes: z.array(z.int().nonnegative()),
    rope_parameters: z.looseObject({ rope_theta: z.number().positive() }).optional(),
  })
  .transform(({ in_channels, in_chans, rope_parameters, ...rest }) => ({
    ...rest,
    in_channels: in_channels ?? in_chans ?? 3,
    rope_theta: rope_parameters?.rope_theta ?? 10_000,
  }));
export type VisionConfig = z.output<typeof VisionConfig>;

/** transformers 5 nests the decoder's fields in `text_config`; published configurations are flat. */
export const VLConfig = z
  .looseObject({
    model_type: z.literal("qwen2_5_vl", { error: "only Qwen2.5-VL is supported" }),
    image_token_id: z.int(),
    video_token_id: z.int(),
    vision_config: VisionConfig,
    text_config: z.looseObject({}).optional(),
    tie_word_embeddings: z.boolean().optional(),
  })
  .transform(({ image_token_id, video_token_id, vision_config, text_config, ...flat }, ctx) => {
    const tied = flat.tie_word_embeddings === undefined ? {} : { tie_word_embeddings: flat.tie_word_embeddings };
    const text = DecoderConfig.safeParse({ ...(text_config ?? flat), ...tied });
    for (const { message, path } of text.error?.issues ?? [])
      ctx.addIssue({ code: "custom", message, path: [...path] });
    if (text.data !== undefined && text.data.mrope_section === undefined)
      ctx.addIssue({
        code: "custom",
        message: "mrope_section is missing: tokens have positions in time, height and width",
      });
    return { image_token_id, video_token_id, vision: vision_config, text: text.data as DecoderConfig };
  });
export type VLConfig = z.output<typeof VLConfig>;

export const readConfig = (folder: string): VLConfig => readJson(folder, "config.json", VLConfig, "a Qwen2.5-VL model");

const triple = z.tuple([z.number(), z.number(), z.number()]);

/** How pixels are prepared; the defaults are the published ones. */
export const ProcessorConfig = z
  .looseObject({
    patch_size: z.int().positive().default(14),
    merge_size: z.int().positive().default(2),
    temporal_patch_size: z.int().positive().default(2),
    /** Pixels of an image: published files have the first two, transformers 5 writes `size`, with pixels for edges. */
    min_pixels: z.int().positive().nullish(),
    max_pixels: z.int().positive().nullish(),
    size: z
      .looseObject({ shortest_edge: z.int().positive().optional(), longest_edge: z.int().positive().optional() })
      .nullish(),
    image_mean: triple.default([0.48145466, 0.4578275, 0.40821073]),
    image_std: triple.default([0.26862954, 0.26130258, 0.27577711]),
  })
  .transform(({ size, min_pixels, max_pixels, ...rest }) => ({
    ...rest,
    min_pixels: min_pixels ?? size?.shortest_edge ?? 56 * 56,
    max_pixels: max_pixels ?? size?.longest_edge ?? 28 * 28 * 1280,
  }));
export type ProcessorConfig = z.output<typeof ProcessorConfig>;

export const readProcessor = (folder: string): ProcessorConfig =>
  existsSync(join(folder, "preprocessor_config.json"))
    ? readJson(folder, "preprocessor_config.json", ProcessorConfig, "a Qwen2.5-VL model")
    : ProcessorConfig.parse({});
