/**
 * Optical flow on a grid of patches, coarse to fine, by the inverse search of DIS (Kroeger et al. 2016): the patch's
 * gradients and Hessian are those of the first image, so an iteration only samples the second.
 */

/** DIS uses 8 x 8 patches that overlap by half. */
const PATCH = 8;
const STRIDE = 4;
/** DIS's "fast" preset iterates 12 times; steps are below a tenth of a pixel long before that on these sizes. */
const ITERATIONS = 12;
const CONVERGED = 0.02;
/** Smaller eigenvalue of the mean gradient matrix (grey levels squared) below which a patch cannot tell where it went. */
const TEXTURE = 4;
/** Share of a patch's variance that may be left unexplained; 0.3 is a correlation of about 0.85. */
const MATCHED = 0.3;
/** Variance of sensor and codec noise, in grey levels squared: what is left of a faint patch is mostly that. */
const NOISE = 4;
const REPAIRS = 2;

export interface Plane {
  readonly width: number;
  readonly height: number;
  readonly data: Float32Array;
}

export interface Flow {
  readonly columns: number;
  readonly rows: number;
  /** Pixels to the right and down, one a patch, row-major. */
  readonly u: Float32Array;
  readonly v: Float32Array;
  /** 1 where the patch has texture and was found again, else 0. */
  readonly sure: Uint8Array;
  /** Mean square difference that is left, over the patch's variance. */
  readonly left: Float32Array;
}

/** Centre of a patch in pixels. */
export const centre = (index: number): number => index * STRIDE + PATCH / 2 - 0.5;

/** Halves by 2 x 2 means until the shorter side would fall under two patches. */
export function pyramid(first: Plane): Plane[] {
  const levels = [first];
  for (let last = first; Math.min(last.width, last.height) >= 4 * PATCH && levels.length < 4; levels.push(last))
    last = halved(last);
  return levels;
}

function halved({ width, height, data }: Plane): Plane {
  const w = width >> 1;
  const h = height >> 1;
  const out = new Float32Array(w * h);
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      const i = 2 * y * width + 2 * x;
      out[y * w + x] =
        ((data[i] as number) +
          (data[i + 1] as number) +
          (data[i + width] as number) +
          (data[i + width + 1] as number)) /
        4;
    }
  return { width: w, height: h, data: out };
}

/** Flow from one image to the next; both as pyramids of equal shape. */
export function flowBetween(from: readonly Plane[], to: readonly Plane[]): Flow {
  let coarse: Flow | null = null;
  for (let level = from.length - 1; level >= 0; level--)
    coarse = flowOfLevel(from[level] as Plane, to[level] as Plane, coarse);
  return coarse as Flow;
}

function flowOfLevel(from: Plane, to: Plane, coarse: Flow | null): Flow {
  const columns = Math.floor((from.width - PATCH) / STRIDE) + 1;
  const rows = Math.floor((from.height - PATCH) / STRIDE) + 1;
  const flow: Flow = {
    columns,
    rows,
    u: new Float32Array(columns * rows),
    v: new Float32Array(columns * rows),
    sure: new Uint8Array(columns * rows),
    left: new Float32Array(columns * rows),
  };
  const gradient = gradients(from);
  const search = new PatchSearch(from, to, gradient);
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, i++) {
      let u = 0,
        v = 0;
      if (coarse !== null) {
        const near = Math.min(coarse.rows - 1, r >> 1) * coarse.columns + Math.min(coarse.columns - 1, c >> 1);
        u = 2 * (coarse.u[near] as number);
        v = 2 * (coarse.v[near] as number);
      }
      put(flow, i, search.run(c * STRIDE, r * STRIDE, u, v));
    }
  }
  for (let round = 0; round < REPAIRS; round++) repair(flow, search);
  return flow;
}

interface Found {
  readonly u: number;
  readonly v: number;
  /** Mean square difference that is left, over the patch's variance. */
  readonly left: number;
}

function put(flow: Flow, i: number, found: Found): void {
  flow.u[i] = found.u;
  flow.v[i] = found.v;
  flow.left[i] = found.left;
  flow.sure[i] = found.left < MATCHED ? 1 : 0;
}

/**
 * A search can end in a wrong valley, most of all where a coarse level saw too little. Patches that disagree with the
 * median of their neighbours start again from it, and keep what leaves less difference.
 */
function repair(flow: Flow, search: PatchSearch): void {
  const { columns, rows } = flow;
  const u = flow.u.slice();
  const v = flow.v.slice();
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, i++) {
      const near: number[] = [];
      for (let y = Math.max(0, r - 1); y <= Math.min(rows - 1, r + 1); y++)
        for (let x = Math.max(0, c - 1); x <= Math.min(columns - 1, c + 1); x++)
          if (y * columns + x !== i && flow.sure[y * columns + x] === 1) near.push(y * columns + x);
      if (near.length < 2) continue;
      const mu = median(near.map((n) => u[n] as number));
      const mv = median(near.map((n) => v[n] as number));
      if (flow.sure[i] === 1 && Math.hypot((u[i] as number) - mu, (v[i] as number) - mv) < 1) continue;
      const again = search.run(c * STRIDE, r * STRIDE, mu, mv);
      if (again.left < (flow.left[i] as number)) put(flow, i, again);
    }
  }
}

function median(values: number[]): number {
  values.sort((a, b) => a - b);
  return values[values.length >> 1] as number;
}

interface Gradients {
  readonly x: Float32Array;
  readonly y: Float32Array;
}

function gradients({ width, height, data }: Plane): Gradients {
  const x = new Float32Array(data.length);
  const y = new Float32Array(data.length);
  for (let row = 0, i = 0; row < height; row++) {
    for (let col = 0; col < width; col++, i++) {
      x[i] = ((data[col + 1 < width ? i + 1 : i] as number) - (data[col > 0 ? i - 1 : i] as number)) / 2;
      y[i] = ((data[row + 1 < height ? i + width : i] as number) - (data[row > 0 ? i - width : i] as number)) / 2;
    }
  }
  return { x, y };
}

class PatchSearch {
  /** The patch in the first image minus its mean: a change of light is not motion. */
  readonly #patch = new Float32Array(PATCH * PATCH);
  readonly #sample = new Float32Array(PATCH * PATCH);

  constructor(
    private readonly from: Plane,
    private readonly to: Plane,
    private readonly gradient: Gradients,
  ) {}

  run(x0: number, y0: number, startU: number, startV: number): Found {
    const { width, height, data } = this.from;
    let mean = 0,
      xx = 0,
      xy = 0,
      yy = 0;
    for (let y = 0, p = 0; y < PATCH; y++) {
      for (let i = (y0 + y) * width + x0; p < (y + 1) * PATCH; i++, p++) {
        const gx = this.gradient.x[i] as number;
        const gy = this.gradient.y[i] as number;
        xx += gx * gx;
        xy += gx * gy;
        yy += gy * gy;
        mean += this.#patch[p] = data[i] as number;
      }
    }
    const area = PATCH * PATCH;
    mean /= area;
    let variance = 0;
    for (let p = 0; p < area; p++) {
      const value = (this.#patch[p] as number) - mean;
      this.#patch[p] = value;
      variance += (value * value) / area;
    }
    const smaller = (xx + yy - Math.sqrt((xx - yy) ** 2 + 4 * xy * xy)) / 2 / area;
    const determinant = xx * yy - xy * xy;
    if (smaller < TEXTURE || determinant <= 0) return { u: startU, v: startV, left: Number.POSITIVE_INFINITY };
    const before = this.#difference(x0 + startU, y0 + startV);
    let u = startU,
      v = startV;
    for (let step = 0; step < ITERATIONS; step++) {
      if (step > 0) this.#difference(x0 + u, y0 + v);
      let bx = 0,
        by = 0;
      for (let y = 0, p = 0; y < PATCH; y++) {
        for (let i = (y0 + y) * width + x0; p < (y + 1) * PATCH; i++, p++) {
          const error = this.#sample[p] as number;
          bx += error * (this.gradient.x[i] as number);
          by += error * (this.gradient.y[i] as number);
        }
      }
      const du = (yy * bx - xy * by) / determinant;
      const dv = (xx * by - xy * bx) / determinant;
      u -= du;
      v -= dv;
      if (du * du + dv * dv < CONVERGED * CONVERGED) break;
    }
    // As in DIS: a patch that ran further than its own size has lost its way, and keeps what it was told.
    const lost = !(Math.hypot(u - startU, v - startV) <= PATCH);
    const after = lost ? Number.POSITIVE_INFINITY : this.#difference(x0 + u, y0 + v);
    const kept = after < before ? { u, v, rest: after } : { u: startU, v: startV, rest: before };
    // What left the picture cannot be found in it.
    const outside =
      x0 + kept.u < -1 || y0 + kept.v < -1 || x0 + kept.u > width - PATCH + 1 || y0 + kept.v > height - PATCH + 1;
    return { u: kept.u, v: kept.v, left: outside ? Number.POSITIVE_INFINITY : kept.rest / (variance + NOISE) };
  }

  /** Samples the second image at a patch, leaves the mean-free difference in #sample, returns its mean square. */
  #difference(left: number, top: number): number {
    const { width, height, data } = this.to;
    const x = Math.min(Math.max(left, 0), width - PATCH - 1.001);
    const y = Math.min(Math.max(top, 0), height - PATCH - 1.001);
    const xi = Math.floor(x),
      yi = Math.floor(y);
    const fx = x - xi,
      fy = y - yi;
    const a = (1 - fx) * (1 - fy),
      b = fx * (1 - fy),
      c = (1 - fx) * fy,
      d = fx * fy;
    const sample = this.#sample;
    let mean = 0;
    for (let row = 0, p = 0; row < PATCH; row++) {
      for (let i = (yi + row) * width + xi; p < (row + 1) * PATCH; i++, p++) {
        mean += sample[p] =
          a * (data[i] as number) +
          b * (data[i + 1] as number) +
          c * (data[i + width] as number) +
          d * (data[i + width + 1] as number);
      }
    }
    mean /= sample.length;
    let squares = 0;
    for (let p = 0; p < sample.length; p++) {
      const error = (sample[p] as number) - mean - (this.#patch[p] as number);
      sample[p] = error;
      squares += error * error;
    }
    return squares / sample.length;
  }
}
