/**
 * How much one frame differs from the one before, as PySceneDetect measures it: mean absolute differences of OpenCV's
 * 8-bit hue (0..179), saturation and value, and of dilated edges, weighted.
 */
import { Edges } from "./edges.ts";

export interface Weights {
  readonly hue: number;
  readonly sat: number;
  readonly lum: number;
  readonly edges: number;
}

/** PySceneDetect's ContentDetector.DEFAULT_COMPONENT_WEIGHTS. */
export const DEFAULT_WEIGHTS: Weights = { hue: 1, sat: 1, lum: 1, edges: 0 };
/** ContentDetector.LUMA_ONLY_WEIGHTS. */
export const LUMA_WEIGHTS: Weights = { hue: 0, sat: 0, lum: 1, edges: 0 };

export interface Deltas extends Weights {
  /** Weighted mean of the four by the sum of the absolute weights. */
  readonly content: number;
}

/** OpenCV's fixed-point division tables (color_hsv.simd.hpp, hsv_shift 12); rounding is half to even, as in cvRound. */
const SHIFT = 12;
const HALF = 1 << (SHIFT - 1);
const SAT = Int32Array.from({ length: 256 }, (_, i) => (i === 0 ? 0 : halfEven((255 << SHIFT) / i)));
const HUE = Int32Array.from({ length: 256 }, (_, i) => (i === 0 ? 0 : halfEven((180 << SHIFT) / (6 * i))));

function halfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

interface Planes {
  readonly hue: Uint8Array;
  readonly sat: Uint8Array;
  readonly lum: Uint8Array;
  edges: Uint8Array | null;
}

export class ContentScore {
  readonly #weights: Weights;
  readonly #edges: Edges | null;
  #now: Planes;
  #before: Planes | null = null;

  /** `edges` measures edges even when they have no weight. */
  constructor(
    private readonly width: number,
    private readonly height: number,
    weights: Weights,
    how: { edges?: boolean } = {},
  ) {
    this.#weights = weights;
    this.#edges = weights.edges !== 0 || how.edges ? new Edges(width, height) : null;
    this.#now = this.#planes();
  }

  /** rgb [H W 3] -> deltas to the frame before, null for the first. */
  next(rgb: Uint8Array): Deltas | null {
    const now = this.#now;
    toHsv(rgb, now);
    if (this.#edges !== null) now.edges = this.#edges.of(now.lum);
    const before = this.#before;
    this.#before = now;
    this.#now = before ?? this.#planes();
    if (before === null) return null;
    const hue = meanDistance(now.hue, before.hue);
    const sat = meanDistance(now.sat, before.sat);
    const lum = meanDistance(now.lum, before.lum);
    const edges = now.edges === null || before.edges === null ? 0 : meanDistance(now.edges, before.edges);
    const w = this.#weights;
    const total = Math.abs(w.hue) + Math.abs(w.sat) + Math.abs(w.lum) + Math.abs(w.edges);
    return { hue, sat, lum, edges, content: (hue * w.hue + sat * w.sat + lum * w.lum + edges * w.edges) / total };
  }

  #planes(): Planes {
    const size = this.width * this.height;
    return { hue: new Uint8Array(size), sat: new Uint8Array(size), lum: new Uint8Array(size), edges: null };
  }
}

function toHsv(rgb: Uint8Array, out: Planes): void {
  const { hue, sat, lum } = out;
  for (let i = 0, p = 0; i < lum.length; i++, p += 3) {
    const r = rgb[p] as number;
    const g = rgb[p + 1] as number;
    const b = rgb[p + 2] as number;
    const v = Math.max(r, g, b);
    const low = Math.min(r, g, b);
    const diff = v - low;
    const sector = v === r ? g - b : v === g ? b - r + 2 * diff : r - g + 4 * diff;
    const h = (sector * (HUE[diff] as number) + HALF) >> SHIFT;
    lum[i] = v;
    sat[i] = (diff * (SAT[v] as number) + HALF) >> SHIFT;
    hue[i] = h < 0 ? h + 180 : h;
  }
}

function meanDistance(a: Uint8Array, b: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += Math.abs((a[i] as number) - (b[i] as number));
  return sum / a.length;
}
