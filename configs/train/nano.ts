/**
 * The nano model (waver.md): the recipes of Waver at a size that two processor cores train in minutes, one stage after
 * another. Everything but sizes and rates is the full recipe's; what differs says why.
 *
 *   waver train --recipe configs/train/nano.ts#nano-t2i --set SET --output image/
 *   waver train --recipe configs/train/nano.ts#nano-video --set SET --model image/ --output video/
 *   waver train --recipe configs/train/nano.ts#nano-refiner --set SET --model video/ --output model/
 */
import { join } from "node:path";

const HERE = join(import.meta.dir, "../nano");
const MAX_TOKENS = 48;

/** 64x64x17 at 8 fps is 16x5x8x8 latents; one latent is one token, since 2x2 of so small a picture are too coarse. */
const NETWORK = {
  num_dual: 2,
  num_single: 3,
  // 3 x 64 rather than 6 x 32: half the softmax for the same products.
  num_heads: 3,
  head_dim: 64,
  in_channels: 36,
  out_channels: 16,
  patch_size: [1, 1, 1],
  t5_dim: 128,
  qwen_dim: null,
  max_t5: MAX_TOKENS,
  // 16 rows and columns: the refiner works at twice the size.
  pos_sizes: [8, 16, 16],
};
const TEXT = {
  id: "flan-t5",
  config: {
    vocab_size: 1024,
    d_model: 128,
    d_kv: 32,
    d_ff: 256,
    num_layers: 2,
    num_heads: 4,
    feed_forward_proj: "gated-gelu",
  },
  tokenizer: join(HERE, "tokenizer"),
  maxTokens: MAX_TOKENS,
};

/** The papers freeze their text encoders; one with fresh weights has to be trained beside the network. */
const trainText = true;
const OPTIMISER = { lr: 1e-3, warmup: 50, schedule: "cosine", finalLr: 0.1, ema: 0.99 };
const SIZE = { width: 64, height: 64 };
const VIDEO = { sizes: [SIZE], frames: 17, fps: 8 };
/** Waver 4.3. */
const TIMES = { image: { kind: "logit-normal", mean: 0.5, std: 1 }, video: { kind: "mode", scale: 1.29 } };

export default [
  {
    name: "nano-t2i",
    parent: null,
    source: "Waver 4.1, T2I",
    train: {
      codec: { id: "wan-vae", path: join(HERE, "vae") },
      encodeText: TEXT,
      family: { id: "waver", config: NETWORK },
      objective: { id: "flow", timesteps: TIMES },
      image: { sizes: [SIZE] },
      trainText,
      steps: 150,
      batch: 32,
      ...OPTIMISER,
    },
  },
  {
    name: "nano-video",
    parent: "nano-t2i",
    source: "Waver 4.1, T2V & I2V; 4.3",
    train: {
      objective: { id: "flow", timesteps: TIMES, firstFrame: 0.2 },
      video: VIDEO,
      image: { sizes: [SIZE] },
      imageShare: 0.1,
      trainText,
      steps: 1000,
      batch: 16,
      keepSnapshots: 3,
      snapshotEvery: 50,
      ...OPTIMISER,
    },
  },
  {
    name: "nano-refiner",
    parent: "nano-video",
    source: "Waver 2.2",
    train: {
      component: "refiner",
      family: { id: "waver", config: { ...NETWORK, window: { kind: "count" } } },
      // Pixel degradation is the refiner's own factor. No latent noise, and an output layer that starts from zero: what this
      // VAE keeps of the degradation is smaller than any noise that minutes of training could take out again (LOG.md).
      objective: { id: "refine", factor: 2, chroma: true, wd: [0, 0] },
      fresh: ["out.proj"],
      video: { ...VIDEO, sizes: [{ width: 128, height: 128 }] },
      steps: 100,
      batch: 4,
      ...OPTIMISER,
      lr: 2e-4,
      finalLr: 0.02,
      warmup: 10,
    },
  },
];
