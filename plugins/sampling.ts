/** The nouns of sampling: what guides, accelerators, samplers and refiners are given and give. Axes as in types.ts. */
import type { Tensor } from "../native/index.ts";
import type { FlowConvention } from "./types.ts";

/** One denoise step as a guide sees it. `predict` may be called any number of times, for instance once more with a layer left out. */
export interface GuideCall {
  predict(branch: "positive" | "negative", how?: { readonly skipLayers?: readonly number[] }): Tensor;
  readonly latents: Tensor;
  readonly t: number;
  readonly step: number;
  readonly numSteps: number;
}
/** Returns the guided prediction; the sampler owns it. Synchronous: runs inside the step's scope. */
export interface Guide {
  (call: GuideCall): Tensor;
  /** Predictions that it will ask for in a step, for plans; two when it does not say. */
  passes?(at: Pick<GuideCall, "step" | "numSteps">): number;
  /** Of one that remembers earlier steps: with it a killed sample goes on as if it had not been. */
  readonly memory?: GuideMemory;
}
export interface GuideMemory {
  /** New tensors, the caller's. */
  save(): Readonly<Record<string, Tensor>>;
  /** What one of the same options saved; borrowed. */
  restore(saved: Readonly<Record<string, Tensor>>): void;
}

export interface SampleRequest {
  /** Starting latents (noise) [B C T h w]; borrowed. */
  readonly latents: Tensor;
  readonly numSteps: number;
  /** Timestep shift s: t = s u / (1 + (s - 1) u). Absent: the scheduler's own. */
  readonly shift?: number | undefined;
  readonly convention: FlowConvention;
  /** Flow time at which to start, 1 = pure noise; a resumed or refined sample starts lower. */
  readonly startStep?: number;
  /** The guided prediction at x, t (and its step index). */
  readonly predict: (
    latents: Tensor,
    t: Tensor,
    at: { readonly step: number; readonly numSteps: number; readonly t: number },
  ) => Tensor;
  /** Called before every step with the flow time of its prediction: whoever predicts may change networks here. Awaited. */
  readonly beforeStep?: (at: { readonly step: number; readonly numSteps: number; readonly t: number }) => Promise<void>;
  /** Called after every step with the new state (borrowed); may save it or render a preview. Awaited. */
  readonly onStep?: (at: {
    readonly step: number;
    readonly numSteps: number;
    readonly latents: Tensor;
    readonly state?: Readonly<Record<string, Tensor>>;
  }) => Promise<void>;
  /** Sampler state saved by `onStep`, to continue a killed sample. */
  readonly state?: Readonly<Record<string, Tensor>>;
  readonly signal: AbortSignal;
}

/** A refiner turns a low-resolution video into a high-resolution one. */
export interface RefineRequest {
  /** [B 3 F H W] in [-1, 1]. */
  readonly video: Tensor;
  readonly scale: number;
  readonly prompt: readonly string[];
  readonly numSteps: number;
  readonly seed: number;
  /** Share of noise that the enlarged video is disturbed with; the provider's own when absent. Large values edit. */
  readonly wd?: number | undefined;
  /** Called once with the refined latents (borrowed), before they are decoded. */
  readonly onLatents?: ((latents: Tensor) => void) | undefined;
  readonly signal: AbortSignal;
}

/** Whose pass through a denoiser it is. Nothing is known of one from another that differs in network, branch or call. */
export interface PassOf {
  /** 0, or 1 for the second of two denoisers. */
  readonly network: number;
  readonly branch: "positive" | "negative";
  /** Counts the passes of that branch within the step. */
  readonly call: number;
  readonly step: number;
  readonly numSteps: number;
}

/** What an accelerator needs of the passes so far. */
export interface AcceleratorMemory {
  readonly tensors: Readonly<Record<string, Tensor>>;
  /** Plain data. */
  readonly facts: unknown;
}

/** Leaves out of a denoiser's passes what is much as it was a step before, over the steps of one batch. */
export interface Accelerator extends Disposable {
  /** Runs a pass (synchronous), or as much of it as it must. A row of a batch is treated as if it were alone. */
  during<T>(of: PassOf, pass: () => T): T;
  /** Blocks in all passes so far, and how many of them did not run. */
  readonly tally: { readonly blocks: number; readonly skipped: number };
  /** With this one begins anew where this one stands (a killed sample); borrowed, until the next pass. */
  memory(): AcceleratorMemory;
  /** Whether the host is to make each sample a second time, without it, and say how far the two are apart. */
  readonly isMeasured: boolean;
}

export interface AccelerateRequest {
  /** Of the one to go on from; borrowed. */
  readonly memory?: AcceleratorMemory | undefined;
}
