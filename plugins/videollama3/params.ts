/** The configuration of a VideoLLaMA3 checkpoint in Transformers' layout (`video_llama_3`), in the words of its `config.json`. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "../index.ts";
import { DecoderConfig, readJson } from "../language.ts";

export const VisionConfig = z
  .looseObject({
    hidden_size: z.int().positive(),
    intermediate_size: z.int().positive(),
    num_hidden_layers: z.int().positive(),
    num_attention_heads: z.int().positive(),
    num_channels: z.int().positive().default(3),
    patch_size: z.int().positive(),
    hidden_act: z
      .literal("gelu_pytorch_tanh", { error: "only hidden_act gelu_pytorch_tanh is supported" })
      .default("gelu_pytorch_tanh"),
    layer_norm_eps: z.number().positive().default(1e-6),
    rope_parameters: z.looseObject({ rope_theta: z.number().positive() }).nullish(),
  })
  .transform(({ rope_parameters, ...rest }) => ({ ...rest, rope_theta: rope_parameters?.rope_theta ?? 10_000 }));
export type VisionConfig = z.output<typeof VisionConfig>;

export const VideoLlama3Config = z
  .looseObject({
    model_type: z.literal("video_llama_3", {
      error: "only Transformers' layout (model_type video_llama_3) is supported, not that of the first release",
    }),
    image_token_id: z.int(),
    video_token_id: z.int(),
    vision_config: VisionConfig,
    text_config: DecoderConfig,
    tie_word_embeddings: z.boolean().default(false),
  })
  .transform(({ image_token_id, video_token_id, vision_config, text_config, tie_word_embeddings }) => ({
    image_token_id,
    video_token_id,
    vision: vision_config,
    // either place may say it
    text: { ...text_config, tie_word_embeddings: tie_word_embeddings || text_config.tie_word_embeddings },
  }));
export type VideoLlama3Config = z.output<typeof VideoLlama3Config>;

export const readConfig = (folder: string): VideoLlama3Config =>
  readJson(folder, "config.json", VideoLlama3Config, "a VideoLLaMA3 model");

const triple = z.tuple([z.number(), z.number(), z.number()]);

/** How a video's pixels are prepared (`video_preprocessor_config.json`); the defaults are transformers'. */
export const VideoProcessorConfig = z
  .looseObject({
    patch_size: z.int().positive().default(14),
    merge_size: z.int().positive().default(2),
    temporal_patch_size: z.literal(1, { error: "only a temporal_patch_size of 1 is supported" }).default(1),
    min_pixels: z.int().positive().nullish(),
    max_pixels: z.int().positive().nullish(),
    /** Pixels for edges: of a frame, and of all frames together. */
    size: z
      .looseObject({ shortest_edge: z.int().positive().optional(), longest_edge: z.int().positive().optional() })
      .nullish(),
    image_mean: triple.default([0.5, 0.5, 0.5]),
    image_std: triple.default([0.5, 0.5, 0.5]),
    use_token_compression: z.boolean().default(true),
  })
  .transform(({ size, min_pixels, max_pixels, ...rest }) => ({
    ...rest,
    min_pixels: min_pixels ?? size?.shortest_edge ?? 128 * 28 * 28,
    max_pixels: max_pixels ?? size?.longest_edge ?? 768 * 28 * 28,
  }));
export type VideoProcessorConfig = z.output<typeof VideoProcessorConfig>;

const PROCESSOR = "video_preprocessor_config.json";
export const readVideoProcessor = (folder: string): VideoProcessorConfig =>
  existsSync(join(folder, PROCESSOR))
    ? readJson(folder, PROCESSOR, VideoProcessorConfig, "a VideoLLaMA3 model")
    : VideoProcessorConfig.parse({});
