/** Frames as numbers: clips and images read at one size, and the arithmetic of comparing and describing them. No engine. */
import { extname } from "node:path";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import type { FrameView } from "../types.ts";

/** RGB frames, packed, row-major. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  /** 1 for an image. */
  readonly fps: number;
  readonly frames: readonly Uint8Array[];
}

const IMAGES = new Set([".png", ".jpg", ".jpeg", ".webp"]);
export const isImage = (path: string): boolean => IMAGES.has(extname(path).toLowerCase());

/** Longest side at which clips are measured: sharpness and motion of a 4K film do not need its every pixel. */
const LONGEST = 512;

/** Reads a clip or an image; at its own size and rate, or as another one (`like`) so that both can be compared. */
export async function readPixels(
  path: string,
  ctx: Pick<Context, "media" | "signal">,
  like?: Omit<Pixels, "frames">,
): Promise<Pixels> {
  if (isImage(path)) {
    const { data, width, height } = await ctx.media.image(path, like);
    return { width, height, fps: 1, frames: [data] };
  }
  const source = await ctx.media.probe(path, ctx.signal);
  const scale = Math.min(1, LONGEST / Math.max(source.width, source.height));
  const even = (side: number): number => Math.max(2, Math.round((side * scale) / 2) * 2);
  const { width, height, fps } = like ?? { width: even(source.width), height: even(source.height), fps: source.fps };
  const view: FrameView = { width, height, fit: "cover", rate: like ? fps : "native", format: "rgb24", batch: 16 };
  const frames: Uint8Array[] = [];
  const size = width * height * 3;
  for await (const { data, count } of ctx.media.frames(path, view, { signal: ctx.signal }))
    for (let i = 0; i < count; i++) frames.push(data.slice(i * size, (i + 1) * size));
  if (frames.length === 0) throw new WaverError("media_empty", `${path} has no frames to measure`);
  return { width, height, fps, frames };
}

/** Luma of BT.601, as video codecs weigh it. */
export function luma(rgb: Uint8Array): Float64Array {
  const out = new Float64Array(rgb.length / 3);
  for (let i = 0, k = 0; i < out.length; i++, k += 3)
    out[i] = 0.299 * (rgb[k] as number) + 0.587 * (rgb[k + 1] as number) + 0.114 * (rgb[k + 2] as number);
  return out;
}

/** Peak signal-to-noise ratio of two frames in dB, all channels together; 100 for equal ones, so that averages stay finite. */
export function psnr(a: ArrayLike<number>, b: ArrayLike<number>, peak = 255): number {
  if (a.length !== b.length)
    throw new WaverError("shape_mismatch", `frames of ${a.length} and ${b.length} values cannot be compared`);
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] as number) - (b[i] as number)) ** 2;
  const error = sum / Math.max(1, a.length);
  return error === 0 ? 100 : Math.min(100, 10 * Math.log10((peak * peak) / error));
}

/** Window of Wang et al. 2004: 11 taps, sigma 1.5. */
const WINDOW = Float64Array.from({ length: 11 }, (_, i) => Math.exp(-((i - 5) ** 2) / (2 * 1.5 ** 2)));
const WINDOW_SUM = WINDOW.reduce((sum, value) => sum + value, 0);

/** Windowed mean of every place where the whole window fits. */
function blurred(
  values: Float64Array,
  width: number,
  height: number,
): { data: Float64Array; width: number; height: number } {
  const [w, h] = [width - 10, height - 10];
  const rows = new Float64Array(w * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < w; x++) {
      let sum = 0;
      for (let k = 0; k < 11; k++) sum += (WINDOW[k] as number) * (values[y * width + x + k] as number);
      rows[y * w + x] = sum / WINDOW_SUM;
    }
  const data = new Float64Array(w * h);
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      let sum = 0;
      for (let k = 0; k < 11; k++) sum += (WINDOW[k] as number) * (rows[(y + k) * w + x] as number);
      data[y * w + x] = sum / WINDOW_SUM;
    }
  return { data, width: w, height: h };
}

/** Structural similarity of two frames' luma (Wang et al. 2004), mean over the places where the window fits. */
export function ssim(a: Uint8Array, b: Uint8Array, width: number, height: number): number {
  if (width < 11 || height < 11)
    throw new WaverError(
      "invalid_input",
      `structural similarity needs frames of 11 x 11 pixels or more, not ${width} x ${height}`,
    );
  const [x, y] = [luma(a), luma(b)];
  const times = (p: Float64Array, q: Float64Array): Float64Array => p.map((value, i) => value * (q[i] as number));
  const mean = (values: Float64Array): Float64Array => blurred(values, width, height).data;
  const [mx, my, xx, yy, xy] = [mean(x), mean(y), mean(times(x, x)), mean(times(y, y)), mean(times(x, y))];
  const [c1, c2] = [(0.01 * 255) ** 2, (0.03 * 255) ** 2];
  let sum = 0;
  for (let i = 0; i < mx.length; i++) {
    const [p, q] = [mx[i] as number, my[i] as number];
    const [vx, vy, cov] = [(xx[i] as number) - p * p, (yy[i] as number) - q * q, (xy[i] as number) - p * q];
    sum += ((2 * p * q + c1) * (2 * cov + c2)) / ((p * p + q * q + c1) * (vx + vy + c2));
  }
  return sum / mx.length;
}

/** Mean over matched frames of two clips that were read alike. */
export function perFrame(a: Pixels, b: Pixels, measure: (a: Uint8Array, b: Uint8Array) => number): number {
  const count = Math.min(a.frames.length, b.frames.length);
  let sum = 0;
  for (let i = 0; i < count; i++) sum += measure(a.frames[i] as Uint8Array, b.frames[i] as Uint8Array);
  return sum / Math.max(1, count);
}

/** Mean change of luma from frame to frame, in grey levels a second's eighth (8 frames a second is the nano clip's rate). */
export function motion({ frames, fps }: Pixels): number {
  if (frames.length < 2) return 0;
  let sum = 0;
  let before = luma(frames[0] as Uint8Array);
  for (const frame of frames.slice(1)) {
    const now = luma(frame);
    let change = 0;
    for (let i = 0; i < now.length; i++) change += Math.abs((now[i] as number) - (before[i] as number));
    sum += change / now.length;
    before = now;
  }
  return (sum / (frames.length - 1)) * (fps / 8);
}

/** Variance of the Laplacian of luma, mean over frames: low for a blur. */
export function sharpness({ frames, width, height }: Pixels): number {
  let total = 0;
  for (const frame of frames) {
    const y = luma(frame);
    let [sum, squares] = [0, 0];
    for (let row = 1; row < height - 1; row++)
      for (let column = 1; column < width - 1; column++) {
        const i = row * width + column;
        const value =
          (y[i - 1] as number) +
          (y[i + 1] as number) +
          (y[i - width] as number) +
          (y[i + width] as number) -
          4 * (y[i] as number);
        sum += value;
        squares += value * value;
      }
    const count = Math.max(1, (width - 2) * (height - 2));
    total += squares / count - (sum / count) ** 2;
  }
  return total / Math.max(1, frames.length);
}
