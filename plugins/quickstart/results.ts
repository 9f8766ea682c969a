/** What the chain brought together, before it is told as a report. */
import type { Evaluation } from "../index.ts";
import type { CutClip } from "./cut.ts";
import type { HeldOut, Shot } from "./sources.ts";

export interface Generated {
  readonly id: string;
  readonly prompt: string;
  readonly seed: number;
  readonly file: string;
  /** Artefact in the store, when the generator publishes it. */
  readonly digest?: string | undefined;
  /** The given first frame (image to video). */
  readonly image?: string;
  readonly refined?: string;
}

export interface StageCost {
  readonly name: string;
  readonly operation: string;
  readonly seconds: number;
  readonly peakBytes: number;
  readonly isReused: boolean;
}

export interface LossCurve {
  readonly name: string;
  readonly summary: string;
  readonly steps: number[];
  readonly losses: number[];
  readonly numSteps: number;
}

export interface FunnelCounts {
  readonly numIn: number;
  readonly rules: { readonly rule: string; readonly dropped: number; readonly kept: number; readonly why?: string }[];
  readonly dropped: { readonly name: string; readonly rule: string; readonly why: string }[];
}

/** A held-out clip and what the refiner made of it: as a file, and as the latents before they were decoded. */
export interface RefinedClip extends HeldOut {
  readonly refined: string;
  readonly latents: string;
}

export interface Results {
  readonly sources: readonly (Shot & { readonly note?: string })[];
  readonly funnel: FunnelCounts;
  readonly curves: readonly LossCurve[];
  readonly training: readonly CutClip[];
  readonly textToVideo: readonly Generated[];
  readonly textToImage: readonly Generated[];
  readonly imageToVideo: readonly Generated[];
  readonly heldOut: readonly RefinedClip[];
  readonly judged: {
    readonly clips: Evaluation | null;
    readonly firstFrame: Evaluation | null;
    readonly refined: Evaluation | null;
  };
  /** dB that the VAE keeps of the training clips: nothing that it decodes can be truer. */
  readonly vaePsnr: number;
  /** Source files by digest, for the lineage. */
  readonly names: Readonly<Record<string, string>>;
  readonly stages: readonly StageCost[];
  readonly versions: Readonly<Record<string, string>>;
  readonly shortcomings: readonly string[];
}
