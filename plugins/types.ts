/**
 * The nouns that hooks pass around. Values that cross a process are zod schemas (validated at every edge);
 * objects that live beside the tensors they own (Codec, Denoiser, TextEncoder, Objective) are plain interfaces.
 *
 * Axes: B batch, C channels, T frames (latent frames where the tensor is latents), H height, W width, L tokens,
 * D features. Video is [-1, 1], RGB, unless said otherwise.
 */
import { z } from "zod";
import type { DType, Generator, Module, Parameter, Tensor } from "../native/index.ts";

export type * from "./sampling.ts";

/** A content address. Parsed once at every edge; paths are built only from parsed digests. */
export const Digest = z
  .string()
  .regex(/^sha256:[0-9a-f]{64}$/, "a digest is sha256: and 64 hex digits")
  .brand<"Digest">();
export type Digest = z.output<typeof Digest>;

/** What a sample is asked to be. Waver 2.1: one network, three tasks; `interpolate` is the same mask with other frames known. */
export const Task = z.enum(["t2i", "t2v", "i2v", "interpolate"]);
export type Task = z.output<typeof Task>;

// ---------------------------------------------------------------------------------------------------- video in

/** One file of raw video, as found. `tag` says where it came from (Waver 3.1: multi-source acquisition). */
export const Source = z.object({
  id: Digest,
  path: z.string(),
  tag: z.string(),
  width: z.int().positive(),
  height: z.int().positive(),
  fps: z.number().positive(),
  numFrames: z.int().nonnegative(),
  duration: z.number().nonnegative(),
  bitrate: z.number().nonnegative(),
  codec: z.string(),
  licence: z.string().optional(),
});
export type Source = z.output<typeof Source>;

/** A span of one source, in seconds from its start. `id` is the digest of source and span. */
export const Clip = z.object({
  id: Digest,
  source: Digest,
  start: z.number().nonnegative(),
  end: z.number().positive(),
});
export type Clip = z.output<typeof Clip>;

/** What a provider wants to see of a clip. The decoder serves every provider's view from one decode. */
export const FrameView = z.object({
  width: z.int().positive(),
  height: z.int().positive(),
  /** `stretch` fills the view, `cover` keeps the aspect and crops the middle. */
  fit: z.enum(["stretch", "cover"]),
  /** Frames a second; `native` is the clip's own rate. */
  rate: z.union([z.number().positive(), z.literal("native")]),
  format: z.enum(["rgb24", "gray8"]),
  /** Most frames in one batch. */
  batch: z.int().positive(),
});
export type FrameView = z.output<typeof FrameView>;

/** Consecutive frames of a clip: `data` holds `count` frames, row-major, packed pixels. */
export interface FrameBatch {
  readonly data: Uint8Array;
  readonly count: number;
  readonly width: number;
  readonly height: number;
  readonly format: "rgb24" | "gray8";
  /** Seconds from the start of the source, one a frame. */
  readonly times: readonly number[];
}

/** A clip and its frames in the view that the provider's traits asked for. The stream can be read once. */
export interface ClipFrames {
  readonly clip: Clip;
  readonly source: Source;
  readonly frames: AsyncIterable<FrameBatch>;
}

/** Measures by name. Scores are stored; thresholds live in funnel recipes, never here. */
export const Scores = z.record(z.string(), z.number());
export type Scores = z.output<typeof Scores>;

export const Caption = z.object({
  text: z.string().min(1),
  /** Who said it: `sidecar`, `filename`, or the model's name. */
  by: z.string(),
  actions: z.array(z.object({ start: z.number(), end: z.number(), text: z.string() })).optional(),
});
export type Caption = z.output<typeof Caption>;

/** A table on disk and the query that reads it: set work never passes rows by value. */
export const Relation = z.object({
  /** Parquet files, in order. */
  files: z.array(z.string()).min(1),
  numRows: z.int().nonnegative(),
});
export type Relation = z.output<typeof Relation>;

// ---------------------------------------------------------------------------------------------------- text

export const Prompt = z.object({
  text: z.string(),
  negative: z.string().default(""),
  /** Seconds of video asked for: the rewriting regimes of 5 s and 10 s differ (Waver 4.6). */
  seconds: z.number().positive().optional(),
});
export type Prompt = z.output<typeof Prompt>;

/** Text features for a batch. `mask` is 1 where a token is real. */
export interface Conditioning {
  /** [B L D] */
  readonly states: Tensor;
  /** [B L], bool */
  readonly mask: Tensor;
}

export interface TextEncoder extends AsyncDisposable {
  readonly module: Module;
  /** Token ids as the tokenizer gives them, end token included, unpadded. */
  tokenize(texts: readonly string[]): number[][];
  /** Texts -> states [B L D], mask [B L]. L is the longest text, at most `maxTokens`; `padTo` pads further with zero rows. Gradients flow when the module asks for them. */
  encode(texts: readonly string[], how?: { padTo?: number }): Conditioning;
  save(folder: string): Promise<void>;
}

/** Tokens of still images, for networks that also read what they continue through an image encoder (Wan 2.1, image to video). */
export interface ImageEncoder extends AsyncDisposable {
  readonly module: Module;
  /** images [B 3 H W], uint8 RGB of any size -> tokens [B I D]; resized and normalised as the checkpoint's own processor says. */
  encode(images: Tensor): Tensor;
}

// ---------------------------------------------------------------------------------------------------- latents

/** Facts that two components must share to work together, e.g. a DiT and the VAE whose latents it was trained on. */
export interface LatentSpec {
  /** Latent channels. */
  readonly channels: number;
  /** Pixels (frames, rows, columns) a latent element stands for. Frame 0 is alone: T = 1 + (frames - 1) / stride[0]. */
  readonly stride: readonly [number, number, number];
}

export interface Codec extends AsyncDisposable {
  readonly module: Module;
  readonly latent: LatentSpec;
  /** video [B 3 F H W] in [-1, 1] -> posterior {mean, logvar} [B C T h w], not normalised. F = 4k + 1. */
  posterior(video: Tensor): { mean: Tensor; logvar: Tensor };
  /** video [B 3 F H W] -> normalised latents [B C T h w], float32 (posterior mean). */
  encode(video: Tensor): Tensor;
  /** Normalised latents [B C T h w] -> video [B 3 F H W], clamped to [-1, 1]. */
  decode(latents: Tensor): Tensor;
  /** Latents as the posterior gives them, not normalised -> video, not clamped, with gradients: what training needs. */
  reconstruct?(z: Tensor): Tensor;
  /** Replaces the per-channel statistics that `encode` and `decode` normalise by; arrays of C numbers. */
  setStatistics?(mean: readonly number[], std: readonly number[]): void;
  save?(folder: string, how?: { dtype?: DType }): Promise<void>;
  /** The same, one chunk of frames at a time; every chunk belongs to the caller. */
  decodeChunks(latents: Tensor): Iterable<Tensor>;
  /** The same for a decode that may be killed: given what `memory` held after an earlier chunk, the next one comes first. */
  decoder?(latents: Tensor, memory?: Readonly<Record<string, Tensor>>): ChunkDecoder;
}

/** A decode under way. */
export interface ChunkDecoder extends Disposable {
  /** The next chunk [1 3 F H W], the caller's; F = 0 where frames are not done yet but some work is. Undefined at the end. */
  next(): Tensor | undefined;
  /** All that the chunks to come need of those given so far; borrowed, until `next`. Undefined where it cannot be left. */
  memory(): Readonly<Record<string, Tensor>> | undefined;
}

/** How a family moves between noise and data: the sampler and the objective read this, never the family's name. */
export interface FlowConvention {
  /** Value handed to the network at pure noise (1 or 1000): its time is `timeScale * t`. */
  readonly timeScale: number;
  /** What the network predicts. `noise-data`: n - x0, x += dt * v with dt < 0. `data-noise`: x0 - x_n, x += |dw| * p. */
  readonly predicts: "noise-data" | "data-noise";
}

export interface DenoiserInput {
  /** [B C T h w], noisy latents. */
  readonly latents: Tensor;
  /** [B], the flow time in [0, 1]; the family scales it. float64 or float32: integer timesteps survive only the former. */
  readonly t: Tensor;
  readonly text: Conditioning;
  /** Second encoder's features, for families that take two. */
  readonly text2?: Conditioning;
  /** Known frames: latents [B C T h w] and mask [B 4 T h w], from `condition`; also when nothing is known. Absent for a network without `condition`. */
  readonly known?: KnownFrames;
  /** Tokens of the known images [B I D], first and last one after the other, where the network has `numImages`. */
  readonly image?: Tensor;
}

/** Known frames: latents [B C T h w] and, one channel a pixel frame of the group, mask [B 4 T h w]. */
export interface KnownFrames {
  readonly latents: Tensor;
  readonly mask: Tensor;
}

/** The size and length a model was made for. A model folder states its own in `model_index.json`, `_waver.defaults`. */
export const SampleDefaults = z.object({
  width: z.int().positive(),
  height: z.int().positive(),
  numFrames: z.int().positive(),
  fps: z.number().positive(),
  numSteps: z.int().positive(),
});
export type SampleDefaults = z.output<typeof SampleDefaults>;

/** A model in somebody else's layout, as the pipeline that it stands for. */
export const ForeignModel = z.object({
  /** What its `model_index.json` would say. */
  index: z.record(z.string(), z.unknown()),
  /** By component: where its file or folder is, and options of the provider that loads it. Torch's own files (.pth) are converted first. */
  components: z.record(
    z.string(),
    z.object({ path: z.string().optional(), options: z.record(z.string(), z.unknown()).default({}) }),
  ),
});
export type ForeignModel = z.output<typeof ForeignModel>;

export interface Denoiser extends AsyncDisposable {
  readonly module: Module;
  readonly latent: LatentSpec;
  readonly convention: FlowConvention;
  /** Latent frames, rows and columns of one token: sizes must divide. Absent: any size will do. */
  readonly patch?: readonly [number, number, number];
  /** What to make when neither the request nor the model's folder says. */
  readonly defaults?: Partial<SampleDefaults>;
  /** Rows of text that a family without a text mask expects, zeros after the prompt. Absent: any number. */
  readonly textLength?: number | undefined;
  /** [B C T h w] -> prediction [B C T h w]. `taps` collects named intermediate tensors when given. */
  forward(input: DenoiserInput, taps?: Map<string, Tensor>): Tensor;
  /** Names of the taps a side loss may ask for (REPA: the last dual-stream block). */
  readonly taps: readonly string[];
  /**
   * Builds `known` for pixel frames that are given. frames [B 3 F H W] in [-1, 1] (any value where unknown),
   * isKnown: one flag a pixel frame. Families differ in what fills unknown frames (Waver black, Wan grey). Present where
   * the checkpoint takes known frames: every sample then needs a condition, all false when nothing is known.
   */
  condition?(frames: Tensor, isKnown: readonly boolean[], codec: Codec): KnownFrames;
  /** Sampled latents with the known frames put back, where the network holds them fixed instead of predicting them. */
  finish?(latents: Tensor, known: KnownFrames): Tensor;
  /** What this checkpoint does, where that is less than its family does. */
  readonly tasks?: readonly Task[];
  /** Images that the network reads through an image encoder: 1, the first frame; 2, the first and the last. Absent: none. */
  readonly numImages?: 1 | 2;
  /** Other names that published files give the layer of `module` with this name, for instance in the authors' own repository. */
  aliases?(layer: string): readonly string[];
  save(folder: string): Promise<void>;
}

/** Small weights that change what a network does while they are on, for instance a LoRA. Valid as long as its provider is in use. */
export interface Adapter {
  /** Layers that it changes, by their names in the network. */
  readonly layers: readonly string[];
  /** Runs `work` (synchronous) with the adapter on, `weight` times as strong as it was trained. Several nest and add up. The network itself stays as it is: other jobs use it as well. */
  during<T>(weight: number, work: () => T): T;
  /** The network's tensor of that name with the adapter made part of it; undefined where it changes nothing. `own`, borrowed, may come from elsewhere than the network. */
  fused(name: string, own: Tensor, weight: number): Tensor | undefined;
}

export interface AdaptRequest {
  readonly denoiser: Denoiser;
}

// ---------------------------------------------------------------------------------------------------- training

/** A frozen image network whose activations measure how alike two pictures look, or give a DiT something to align with. */
export interface Perception extends AsyncDisposable {
  /** images [B 3 H W] in [-1, 1] -> maps [B C_i H_i W_i], shallow to deep; gradients flow to the images. */
  features(images: Tensor): readonly Tensor[];
}

/** Parameters that share an optimiser and its settings. */
export interface ParameterGroup {
  readonly name: string;
  readonly optimizer: string;
  readonly parameters: readonly Parameter[];
  readonly lrScale?: number;
  readonly weightDecay?: number;
}

/** A batch as the trainer assembles it from a set. Fields a stage did not ask for are absent. */
export interface Batch {
  readonly ids: readonly string[];
  readonly task: Task;
  readonly captions: readonly string[];
  /** [B C T h w], normalised. */
  readonly latents?: Tensor;
  /** [B 3 F H W]. */
  readonly video?: Tensor;
  /** Precomputed per-clip tensors by name: known frames, REPA features, degraded latents. */
  readonly extras: Readonly<Record<string, Tensor>>;
}

export interface StepResult {
  /** Scalar with a gradient. */
  readonly loss: Tensor;
  /** Logged as they are. */
  readonly metrics: Readonly<Record<string, number>>;
}

/**
 * A training objective: what is trained, by which optimisers, and the loss of one batch.
 * Auxiliary modules (REPA's MLP, a GAN's discriminator) are trained, saved and resumed like the model.
 */
export interface Objective extends AsyncDisposable {
  /** Everything that a training checkpoint must hold, by name. */
  readonly modules: Readonly<Record<string, Module>>;
  readonly groups: readonly ParameterGroup[];
  /**
   * Tensors of a clip that stay the same in every step, by name, each with the batch axis: latents, known frames, a
   * degraded twin. video [B 3 F H W] in [-1, 1]. The trainer calls it once a clip and keeps the result; `latents` becomes
   * `Batch.latents`, all others are in `Batch.extras`. Absent: batches carry the video itself.
   */
  prepare?(video: Tensor): Readonly<Record<string, Tensor>>;
  /** Phases of one training step, in order; each updates one optimiser. Most objectives have one. */
  readonly phases: readonly { readonly optimizer: string }[];
  /** Loss of one batch in one phase. Synchronous: runs inside the step's scope. */
  step(batch: Batch, at: { readonly step: number; readonly phase: number; readonly generator: Generator }): StepResult;
}

export interface ObjectiveRequest {
  readonly denoiser?: Denoiser;
  readonly codec?: Codec;
  readonly text?: TextEncoder;
  /** The second encoder of families that take two. */
  readonly text2?: TextEncoder;
  /** Whether the text encoder is trained jointly (the nano model only; the papers freeze theirs). */
  readonly trainText: boolean;
  readonly matmul: DType;
}

// ---------------------------------------------------------------------------------------------------- after

/** A folder with a checkpoint (Diffusers layout) or a published artefact. */
export const CheckpointRef = z.object({ path: z.string(), digest: Digest.optional() });
export type CheckpointRef = z.output<typeof CheckpointRef>;

/** What an evaluator judges: generated files beside the clips they should resemble. */
export const EvalSet = z.object({
  items: z.array(
    z.object({
      id: z.string(),
      video: z.string(),
      prompt: z.string(),
      task: Task,
      reference: z.string().optional(),
      image: z.string().optional(),
    }),
  ),
  /** Training clips, by caption, for nearest-neighbour measures. */
  references: z.array(z.object({ id: z.string(), video: z.string(), caption: z.string() })).default([]),
});
export type EvalSet = z.output<typeof EvalSet>;

export const Evaluation = z.object({
  /** Averages by measure. */
  summary: Scores,
  /** Measures of each item. */
  items: z.record(z.string(), Scores),
  /** Anything a report may want to say beside the numbers, by item. */
  notes: z.record(z.string(), z.string()).default({}),
});
export type Evaluation = z.output<typeof Evaluation>;

// ---------------------------------------------------------------------------------------------------- lineage

/** What made an artefact. One record an artefact, written when it is published. */
export const Lineage = z.object({
  digest: Digest,
  kind: z.string(),
  name: z.string().optional(),
  bytes: z.int().nonnegative(),
  createdAt: z.string(),
  inputs: z.array(z.object({ role: z.string(), digest: Digest })),
  by: z.object({ operation: z.string(), plugin: z.string().optional(), version: z.string() }),
  options: z.record(z.string(), z.unknown()),
  seed: z.int().optional(),
  engine: z.record(z.string(), z.string()).optional(),
  meta: z.record(z.string(), z.unknown()).optional(),
});
export type Lineage = z.output<typeof Lineage>;

/** A content-addressed store. Publishing is atomic: readers see the whole artefact or none of it. */
export interface Store extends AsyncDisposable {
  /** Publishes a file or a folder (moved when `move`), with its lineage. Same content, same digest, no second copy. */
  publish(
    path: string,
    record: Omit<Lineage, "digest" | "bytes" | "createdAt">,
    how?: { move?: boolean },
  ): Promise<Digest>;
  has(digest: Digest): Promise<boolean>;
  /** A local path to read the artefact from (never to write to). */
  path(digest: Digest): Promise<string>;
  lineage(digest: Digest): Promise<Lineage | null>;
  /** Artefacts that name this one as an input. */
  children(digest: Digest): Promise<Digest[]>;
  list(kind?: string): AsyncIterable<Lineage>;
  /** Re-reads the content and compares it with its digest. */
  verify(digest: Digest): Promise<boolean>;
}
