/**
 * Edges of a luma plane as PySceneDetect takes them: OpenCV's Canny with thresholds a third around the median, then a
 * dilation by a square. Borders, the integer tangent test and `>` against `>=` follow OpenCV's canny.cpp, since the
 * golden figures count single pixels.
 */

/** tan 22.5 degrees in 15-bit fixed point (OpenCV's TG22). */
const TAN = 13573;

export class Edges {
  readonly #dx: Int32Array;
  readonly #dy: Int32Array;
  /** Gradient magnitude with a border of zeros one pixel wide. */
  readonly #magnitude: Int32Array;
  readonly #half: number;

  constructor(
    private readonly width: number,
    private readonly height: number,
  ) {
    this.#dx = new Int32Array(width * height);
    this.#dy = new Int32Array(width * height);
    this.#magnitude = new Int32Array((width + 2) * (height + 2));
    // PySceneDetect's estimated kernel size, made odd.
    const size = 4 + Math.round(Math.sqrt(width * height) / 192);
    this.#half = (size % 2 === 0 ? size + 1 : size) >> 1;
  }

  /** luma [H W] -> 0 or 255 [H W]. */
  of(luma: Uint8Array): Uint8Array {
    const middle = median(luma);
    const low = Math.trunc(Math.max(0, (1 - 1 / 3) * middle));
    const high = Math.trunc(Math.min(255, (1 + 1 / 3) * middle));
    this.#gradient(luma);
    return this.#dilate(this.#trace(low, high));
  }

  /** Sobel 3 x 3 with replicated borders; the magnitude is |dx| + |dy|. */
  #gradient(luma: Uint8Array): void {
    const { width: w, height: h } = this;
    for (let y = 0, i = 0; y < h; y++) {
      const up = (y === 0 ? 0 : y - 1) * w;
      const here = y * w;
      const down = (y === h - 1 ? y : y + 1) * w;
      for (let x = 0; x < w; x++, i++) {
        const l = x === 0 ? 0 : x - 1;
        const r = x === w - 1 ? x : x + 1;
        const ul = luma[up + l] as number,
          u = luma[up + x] as number,
          ur = luma[up + r] as number;
        const dl = luma[down + l] as number,
          d = luma[down + x] as number,
          dr = luma[down + r] as number;
        const dx = ur + 2 * (luma[here + r] as number) + dr - ul - 2 * (luma[here + l] as number) - dl;
        const dy = dl + 2 * d + dr - ul - 2 * u - ur;
        this.#dx[i] = dx;
        this.#dy[i] = dy;
        this.#magnitude[(y + 1) * (w + 2) + x + 1] = Math.abs(dx) + Math.abs(dy);
      }
    }
  }

  /** Thins the ridges, keeps those above `high` and what is joined to them above `low`. */
  #trace(low: number, high: number): Uint8Array {
    const { width: w, height: h } = this;
    const wide = w + 2;
    const magnitude = this.#magnitude;
    const edge = new Uint8Array(w * h);
    const weak = new Uint8Array(w * h);
    const stack: number[] = [];
    for (let y = 0, i = 0; y < h; y++) {
      for (let x = 0; x < w; x++, i++) {
        const at = (y + 1) * wide + x + 1;
        const m = magnitude[at] as number;
        if (m <= low || !this.#isRidge(i, at, m, wide)) continue;
        if (m > high) {
          edge[i] = 255;
          stack.push(i);
        } else weak[i] = 1;
      }
    }
    for (let i = stack.pop(); i !== undefined; i = stack.pop()) {
      const x = i % w;
      for (let n = i - w; n <= i + w; n += w) {
        if (n < 0 || n >= edge.length) continue;
        for (let dx = -1; dx <= 1; dx++) {
          if (x + dx < 0 || x + dx >= w || weak[n + dx] === 0) continue;
          weak[n + dx] = 0;
          edge[n + dx] = 255;
          stack.push(n + dx);
        }
      }
    }
    return edge;
  }

  #isRidge(i: number, at: number, m: number, wide: number): boolean {
    const magnitude = this.#magnitude;
    const xs = this.#dx[i] as number;
    const ys = this.#dy[i] as number;
    const x = Math.abs(xs) * TAN;
    const y = Math.abs(ys) * 32768;
    if (y < x) return m > (magnitude[at - 1] as number) && m >= (magnitude[at + 1] as number);
    if (y > x + Math.abs(xs) * 65536)
      return m > (magnitude[at - wide] as number) && m >= (magnitude[at + wide] as number);
    const side = (xs ^ ys) < 0 ? -1 : 1;
    return m > (magnitude[at - wide - side] as number) && m > (magnitude[at + wide + side] as number);
  }

  /** Square dilation, rows then columns. */
  #dilate(edge: Uint8Array): Uint8Array {
    const { width: w, height: h } = this;
    const half = this.#half;
    const rows = new Uint8Array(edge.length);
    const out = new Uint8Array(edge.length);
    for (let y = 0, i = 0; y < h; y++)
      for (let x = 0; x < w; x++, i++)
        if (edge[i] === 255) rows.fill(255, i - Math.min(half, x), i + Math.min(half, w - 1 - x) + 1);
    for (let y = 0, i = 0; y < h; y++)
      for (let x = 0; x < w; x++, i++)
        if (rows[i] === 255)
          for (let n = Math.max(0, y - half); n <= Math.min(h - 1, y + half); n++) out[n * w + x] = 255;
    return out;
  }
}

/** As numpy.median: the mean of the two middle values of an even count. */
function median(values: Uint8Array): number {
  const counts = new Uint32Array(256);
  for (const value of values) counts[value]!++;
  const nth = (n: number): number => {
    let seen = 0;
    for (let value = 0; value < 256; value++) {
      seen += counts[value] as number;
      if (seen > n) return value;
    }
    return 255;
  };
  return (nth((values.length - 1) >> 1) + nth(values.length >> 1)) / 2;
}
