/** A model of our own at the smallest sizes and a set to train it on: files on disk, as requests name them. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parquetWriteFile } from "hyparquet-writer";
import { Generator } from "../../native/index.ts";
import { WanVae } from "../../plugins/wan-vae/codec.ts";
import { VaeConfig } from "../../plugins/wan-vae/params.ts";
import { makeClip } from "./clips.ts";

export const TOKENIZER = join(import.meta.dir, "../golden/tokenizer_t5_unigram/tokenizer");

/** Picks of `train` for fresh networks. Latents have 4 channels and are 8 times smaller; one token is one latent. */
export const TINY_TEXT = {
  id: "flan-t5",
  config: {
    vocab_size: 700,
    d_model: 12,
    d_kv: 4,
    d_ff: 16,
    num_layers: 1,
    num_heads: 2,
    feed_forward_proj: "gated-gelu",
  },
  tokenizer: TOKENIZER,
  maxTokens: 16,
};
const NETWORK = {
  num_dual: 1,
  num_single: 2,
  num_heads: 2,
  head_dim: 12,
  in_channels: 12,
  out_channels: 4,
  patch_size: [1, 1, 1],
  t5_dim: 12,
  qwen_dim: null,
  max_t5: 16,
  pos_sizes: [8, 8, 8],
};
export const TINY_NETWORK = { id: "waver", config: NETWORK, seed: 1 };
export const TINY_REFINER = { id: "waver", config: { ...NETWORK, window: { kind: "count" } } };

/** A VAE folder with random weights. */
export async function tinyVae(folder: string): Promise<string> {
  using generator = new Generator(3);
  const config = VaeConfig.parse({
    ...{
      base_dim: 4,
      z_dim: 4,
      dim_mult: [1, 2, 2],
      num_res_blocks: 1,
      temperal_downsample: [true, true],
      is_residual: true,
      patch_size: 2,
    },
    ...{ in_channels: 12, out_channels: 12, latents_mean: [0, 0, 0, 0], latents_std: [1, 1, 1, 1] },
  });
  await using codec = WanVae.init(config, generator, { device: "cpu" });
  await codec.save(folder);
  return folder;
}

/** A set of short captioned clips: Parquet beside the videos. */
export async function tinySet(folder: string, numClips = 3): Promise<string> {
  mkdirSync(folder, { recursive: true });
  const colors = ["red", "green", "blue", "white", "orange"];
  const rows = await Promise.all(
    Array.from({ length: numClips }, async (_, i) => {
      const path = join(folder, `${i}.mp4`);
      await makeClip(path, [{ source: `testsrc2=s=64x64:r=8,hue=h=${i * 60}`, seconds: 1.5 }], {
        size: "64x64",
        fps: 8,
      });
      return { id: `clip-${i}`, path, start: 0, end: 1.5, caption: `${colors[i % colors.length]} bars move` };
    }),
  );
  const column = (name: keyof (typeof rows)[number], type: "STRING" | "DOUBLE") => ({
    name,
    data: rows.map((row) => row[name]),
    type,
  });
  parquetWriteFile({
    filename: join(folder, "set.parquet"),
    columnData: [
      column("id", "STRING"),
      column("path", "STRING"),
      column("start", "DOUBLE"),
      column("end", "DOUBLE"),
      column("caption", "STRING"),
    ],
  });
  return folder;
}
