/**
 * The numbers of the quick start: what is trained for how long, and what is asked of it. Sizes are those of waver.md (The
 * nano model); where it is silent the choice was made by looking at what came out, and is noted here.
 */
import { join } from "node:path";

export type ProfileName = "full" | "test";

export interface Profile {
  /** Scenes rendered, and of those how many are drawn again with another seed and held out. */
  readonly scenes: number | undefined;
  readonly real: boolean;
  readonly heldOut: number;
  /** Steps in which the VAE that ships is adapted to the clips. */
  readonly adaptSteps: number;
  readonly imageSteps: number;
  readonly videoSteps: number;
  readonly refinerSteps: number;
  /** Averages of the video stage that are merged. */
  readonly snapshots: number;
  readonly prompts: number;
  readonly seeds: readonly number[];
  readonly numSteps: number;
  /** Generated clips that are refined: the first seed of as many prompts. */
  readonly refined: number;
  readonly refineSteps: number;
}

export const PROFILES: Readonly<Record<ProfileName, Profile>> = {
  full: {
    scenes: undefined,
    real: true,
    heldOut: 12,
    adaptSteps: 280,
    imageSteps: 120,
    videoSteps: 600,
    refinerSteps: 100,
    snapshots: 3,
    prompts: 12,
    seeds: [1, 2, 3],
    numSteps: 30,
    refined: 4,
    // Without noise there is nothing to integrate: more steps only add up the errors of each (configs/train/LOG.md).
    refineSteps: 1,
  },
  // Two minutes: every stage runs, and nothing is expected of the pictures.
  test: {
    scenes: 4,
    real: false,
    heldOut: 2,
    adaptSteps: 3,
    imageSteps: 4,
    videoSteps: 8,
    refinerSteps: 2,
    snapshots: 2,
    prompts: 4,
    seeds: [1],
    numSteps: 4,
    refined: 1,
    refineSteps: 2,
  },
};

/** What the network sees of a clip: 17 frames are 5 latent frames. */
export const SHAPE = { width: 64, height: 64, frames: 17, fps: 8 } as const;
export const SCALE = 2;
export const HIGH = { ...SHAPE, width: SHAPE.width * SCALE, height: SHAPE.height * SCALE } as const;

/** Weights and tokenizer that ship with the tree. */
const NANO = join(import.meta.dir, "../../configs/nano");
const MAX_TOKENS = 48;

const CODEC = { id: "wan-vae", path: join(NANO, "vae") } as const;
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
  tokenizer: join(NANO, "tokenizer"),
  maxTokens: MAX_TOKENS,
} as const;
const NETWORK = {
  num_dual: 2,
  num_single: 3,
  num_heads: 6,
  head_dim: 32,
  in_channels: 36,
  out_channels: 16,
  patch_size: [1, 1, 1],
  t5_dim: 128,
  qwen_dim: null,
  max_t5: MAX_TOKENS,
  pos_sizes: [8, 16, 16],
} as const;

/** The numbers that the three stages share. */
const OPTIMISER = { lr: 1e-3, warmup: 50, schedule: "cosine", finalLr: 0.1, ema: 0.99 } as const;

/**
 * The VAE that ships knows few pictures, so it is adapted to the clips at hand (waver.md, The nano model): mostly whole
 * clips, since those are what it will be asked for. No perceptual term: at this length it costs more than it gives.
 */
export const vaeStage = ({ adaptSteps }: Profile, seed: number): Record<string, unknown> => ({
  codec: CODEC,
  side: SHAPE.width,
  frames: SHAPE.frames,
  steps: adaptSteps,
  batch: 4,
  lr: 1e-3,
  whole: 0.85,
  stillShare: 0.1,
  weights: { perceptual: 0, kl: 1e-4 },
  seed,
});

/** Body of the first stage: words to single frames, from fresh weights. */
export const imageStage = ({ imageSteps }: Profile, seed: number, vae: string): Record<string, unknown> => ({
  codec: { ...CODEC, path: vae },
  encodeText: { ...TEXT, seed },
  family: { id: "waver", config: NETWORK, seed },
  objective: { id: "flow" },
  image: { sizes: [{ width: SHAPE.width, height: SHAPE.height }] },
  trainText: true,
  steps: imageSteps,
  batch: 32,
  seed,
  ...OPTIMISER,
});

/** The second: words to video, with the first frame known one time in five and some single frames among the clips. */
export const videoStage = ({ videoSteps, snapshots }: Profile, seed: number): Record<string, unknown> => ({
  objective: { id: "flow" },
  video: { sizes: [{ width: SHAPE.width, height: SHAPE.height }], frames: SHAPE.frames, fps: SHAPE.fps },
  image: { sizes: [{ width: SHAPE.width, height: SHAPE.height }] },
  imageShare: 0.1,
  trainText: true,
  steps: videoSteps,
  batch: 16,
  seed: seed + 1,
  keepSnapshots: snapshots,
  snapshotEvery: Math.max(1, Math.round(videoSteps / 20)),
  ...OPTIMISER,
});

/**
 * The third: the same network with windows, from the second's weights, at twice the size (Waver 2.2; text frozen).
 *
 * What it will be given, and what it is judged by, are files: colour is halved as in one. Colour halved otherwise cost more
 * than the refiner gained.
 *
 * No latent noise. The paper's w_d buries what the degradation left behind; here a degraded latent is 0.01 to 0.05 (RMS, of
 * a spread of 1) from its clean one, and noise of equal signal-to-noise (0.34 to 0.63) twenty times as far: to take it
 * out again costs more than minutes of training give (configs/train/LOG.md). For the same reason the output layer starts
 * from zero: the refiner begins as the identity.
 */
export const refinerStage = ({ refinerSteps }: Profile, seed: number): Record<string, unknown> => ({
  component: "refiner",
  family: { id: "waver", config: { ...NETWORK, window: { kind: "count" } } },
  objective: { id: "refine", factor: SCALE, chroma: true, wd: [0, 0] },
  fresh: ["out.proj"],
  video: { sizes: [{ width: HIGH.width, height: HIGH.height }], frames: HIGH.frames, fps: HIGH.fps },
  steps: refinerSteps,
  batch: 4,
  seed: seed + 2,
  ...OPTIMISER,
  lr: 2e-4,
  finalLr: 0.02,
  warmup: 10,
});

/** Codec by which measures in latents are made: the one that ships, in full precision, since differences are small. */
export const judgingCodec = (vae: string) => ({ ...CODEC, path: vae, dtype: "float32" }) as const;
