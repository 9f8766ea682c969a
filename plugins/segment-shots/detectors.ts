/**
 * PySceneDetect's three detectors (0.7.2), frame by frame: content, adaptive (content against its neighbourhood) and
 * threshold (fades through black). Each gives the frame numbers at which a new shot begins.
 */
import { ContentScore, type Deltas, type Weights } from "./content.ts";

export interface Detector {
  /** rgb [H W 3] of the next frame -> cuts known now. */
  next(rgb: Uint8Array): number[];
  /** Cuts known only at the end. */
  finish(): number[];
  /** Figures of the last frame by PySceneDetect's names, for comparison. */
  readonly metrics: Readonly<Record<string, number | null>>;
}

/**
 * Keeps flashes and flicker from making shots shorter than `length` frames: cuts that follow each other faster are
 * merged into the last of them (PySceneDetect's FlashFilter in mode MERGE).
 */
class FlashFilter {
  #lastAbove: number | null = null;
  #enabled = false;
  #mergeStart: number | null = null;

  constructor(private readonly length: number) {}

  next(frame: number, above: boolean): number[] {
    if (this.length <= 0) return above ? [frame] : [];
    this.#lastAbove ??= frame;
    const longEnough = frame - this.#lastAbove >= this.length;
    if (above) this.#lastAbove = frame;
    if (this.#mergeStart !== null) {
      if (above || !longEnough || this.#lastAbove - this.#mergeStart < this.length) return [];
      this.#mergeStart = null;
      return [this.#lastAbove];
    }
    if (!above) return [];
    if (longEnough) {
      this.#enabled = true;
      return [frame];
    }
    // Before the first cut there is nothing to merge with: the short shot is dropped.
    if (this.#enabled) this.#mergeStart = frame;
    return [];
  }
}

export interface ContentOptions {
  readonly threshold: number;
  /** Frames. */
  readonly minSceneLen: number;
  readonly weights: Weights;
  /** Measure edges although they have no weight. */
  readonly edges?: boolean;
}

const contentMetrics = (deltas: Deltas | null): Record<string, number | null> => ({
  content_val: deltas?.content ?? null,
  delta_edges: deltas?.edges ?? null,
  delta_hue: deltas?.hue ?? null,
  delta_lum: deltas?.lum ?? null,
  delta_sat: deltas?.sat ?? null,
});

export class ContentDetector implements Detector {
  readonly #score: ContentScore;
  readonly #flash: FlashFilter;
  #frame = 0;
  metrics: Record<string, number | null> = {};

  constructor(
    width: number,
    height: number,
    private readonly options: ContentOptions,
  ) {
    this.#score = new ContentScore(
      width,
      height,
      options.weights,
      options.edges === undefined ? {} : { edges: options.edges },
    );
    this.#flash = new FlashFilter(options.minSceneLen);
  }

  next(rgb: Uint8Array): number[] {
    const deltas = this.#score.next(rgb);
    this.metrics = contentMetrics(deltas);
    return this.#flash.next(this.#frame++, (deltas?.content ?? 0) >= this.options.threshold);
  }

  finish(): number[] {
    return [];
  }
}

export interface AdaptiveOptions extends Omit<ContentOptions, "threshold"> {
  /** A cut's content value over the mean of its neighbours'. */
  readonly adaptiveThreshold: number;
  /** Neighbours on each side. */
  readonly windowWidth: number;
  readonly minContentVal: number;
}

export class AdaptiveDetector implements Detector {
  readonly #score: ContentScore;
  readonly #window: number[] = [];
  #frame = 0;
  #lastCut = 0;
  /** `adaptive_ratio` belongs to the frame `windowWidth` frames ago. */
  metrics: Record<string, number | null> = {};

  constructor(
    width: number,
    height: number,
    private readonly options: AdaptiveOptions,
  ) {
    this.#score = new ContentScore(
      width,
      height,
      options.weights,
      options.edges === undefined ? {} : { edges: options.edges },
    );
  }

  next(rgb: Uint8Array): number[] {
    const { windowWidth, adaptiveThreshold, minContentVal, minSceneLen } = this.options;
    const frame = this.#frame++;
    const deltas = this.#score.next(rgb);
    this.metrics = { ...contentMetrics(deltas), adaptive_ratio: null };
    this.#window.push(deltas?.content ?? 0);
    if (this.#window.length < 1 + 2 * windowWidth) return [];
    const target = this.#window[windowWidth] as number;
    const around = (this.#window.reduce((sum, value) => sum + value, 0) - target) / (2 * windowWidth);
    this.#window.shift();
    const still = Math.abs(around) < 1e-5;
    const ratio = still ? (target >= minContentVal ? 255 : 0) : Math.min(target / around, 255);
    this.metrics = { ...this.metrics, adaptive_ratio: ratio };
    const cut = frame - windowWidth;
    if (ratio < adaptiveThreshold || target < minContentVal || cut - this.#lastCut < minSceneLen) return [];
    this.#lastCut = cut;
    return [cut];
  }

  finish(): number[] {
    return [];
  }
}

export interface FadeOptions {
  /** Mean grey level below which a frame is black. */
  readonly threshold: number;
  readonly minSceneLen: number;
  /** -1: cut where it goes dark, 1: where it comes back, 0: between. */
  readonly fadeBias: number;
  readonly addFinalScene: boolean;
}

export class FadeDetector implements Detector {
  #frame = 0;
  #lastCut = 0;
  #fade: { frame: number; type: "in" | "out" } | null = null;
  metrics: Record<string, number | null> = {};

  constructor(private readonly options: FadeOptions) {}

  next(rgb: Uint8Array): number[] {
    const { threshold, minSceneLen, fadeBias } = this.options;
    const frame = this.#frame++;
    let sum = 0;
    for (const value of rgb) sum += value;
    const average = sum / rgb.length;
    this.metrics = { average_rgb: average };
    if (this.#fade === null) {
      this.#fade = { frame: 0, type: average < threshold ? "out" : "in" };
      return [];
    }
    if (this.#fade.type === "in" && average < threshold) this.#fade = { frame, type: "out" };
    else if (this.#fade.type === "out" && average >= threshold) {
      const out = this.#fade.frame;
      this.#fade = { frame, type: "in" };
      if (frame - this.#lastCut >= minSceneLen) {
        this.#lastCut = frame;
        return [Math.round((frame + out + fadeBias * (frame - out)) / 2)];
      }
    }
    return [];
  }

  finish(): number[] {
    const { addFinalScene, minSceneLen } = this.options;
    const last = this.#frame - 1;
    return this.#fade?.type === "out" && addFinalScene && last - this.#lastCut >= minSceneLen ? [this.#fade.frame] : [];
  }
}
