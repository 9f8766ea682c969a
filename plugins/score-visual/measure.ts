/**
 * frames [N H W 3] -> measures, means over the frames:
 * - sharpness   variance of the Laplacian of luma (Pech-Pacheco 2000), in grey levels squared, at the view's size
 * - brightness, contrast   mean and standard deviation of luma, 0..1
 * - dark, bright           share of pixels outside the nominal video range
 * - saturation             mean of HSV saturation, 0..1
 * - border                 share of rows and columns at the edges that stay black through the whole clip
 * - change                 mean absolute luma difference of successive frames, 0..1
 * - still                  share of successive frames that are the same picture
 */
import { WaverError } from "../errors.ts";
import type { FrameBatch, Scores } from "../types.ts";

/** Luma 16..235 is the nominal range of video (BT.709); what lies outside was crushed or clipped. */
const BLACK = 16;
const WHITE = 235;
/** Two decodes of one picture differ by less than half a grey level on average. */
const SAME = 0.5 / 255;

export async function measure(frames: AsyncIterable<FrameBatch>): Promise<Scores> {
  const sums = { sharpness: 0, brightness: 0, dark: 0, bright: 0, contrast: 0, saturation: 0, change: 0, still: 0 };
  let count = 0;
  let pairs = 0;
  let luma = new Uint8Array(0);
  let before = new Uint8Array(0);
  let rows = new Uint8Array(0);
  let columns = new Uint8Array(0);
  for await (const { data, count: frameCount, width, height } of frames) {
    const size = width * height;
    if (luma.length !== size) {
      luma = new Uint8Array(size);
      before = new Uint8Array(size);
      rows = new Uint8Array(height);
      columns = new Uint8Array(width);
    }
    for (let f = 0; f < frameCount; f++) {
      const light = lightOf(data.subarray(f * size * 3, (f + 1) * size * 3), luma);
      const mean = light.sum / size;
      sums.brightness += mean / 255;
      sums.contrast += Math.sqrt(Math.max(0, light.squares / size - mean * mean)) / 255;
      sums.dark += light.dark / size;
      sums.bright += light.bright / size;
      sums.saturation += light.saturation / size;
      sums.sharpness += laplacianVariance(luma, width, height);
      brightest(luma, rows, columns);
      if (count > 0) {
        const change = meanDifference(luma, before) / 255;
        sums.change += change;
        if (change < SAME) sums.still++;
        pairs++;
      }
      [luma, before] = [before, luma];
      count++;
    }
  }
  if (count === 0) throw new WaverError("media_too_short", "a clip without frames cannot be scored");
  const over = (sum: number, by: number): number => (by === 0 ? 0 : sum / by);
  return {
    sharpness: sums.sharpness / count,
    brightness: sums.brightness / count,
    dark: sums.dark / count,
    bright: sums.bright / count,
    contrast: sums.contrast / count,
    saturation: sums.saturation / count,
    border: borderShare(rows, columns),
    change: over(sums.change, pairs),
    // A clip that shows one sampled picture only does not move as far as can be seen.
    still: pairs === 0 ? 1 : sums.still / pairs,
  };
}

function lightOf(
  rgb: Uint8Array,
  luma: Uint8Array,
): { sum: number; squares: number; dark: number; bright: number; saturation: number } {
  let sum = 0,
    squares = 0,
    dark = 0,
    bright = 0,
    saturation = 0;
  for (let i = 0, p = 0; i < luma.length; i++, p += 3) {
    const r = rgb[p] as number,
      g = rgb[p + 1] as number,
      b = rgb[p + 2] as number;
    // BT.709 luma in 16-bit fixed point.
    const y = (13933 * r + 46871 * g + 4732 * b) >> 16;
    luma[i] = y;
    sum += y;
    squares += y * y;
    if (y < BLACK) dark++;
    else if (y > WHITE) bright++;
    const high = Math.max(r, g, b);
    const low = Math.min(r, g, b);
    if (high > 0) saturation += (high - low) / high;
  }
  return { sum, squares, dark, bright, saturation };
}

function laplacianVariance(luma: Uint8Array, width: number, height: number): number {
  let sum = 0,
    squares = 0;
  for (let y = 1; y < height - 1; y++) {
    for (let i = y * width + 1; i < (y + 1) * width - 1; i++) {
      const value =
        (luma[i - 1] as number) +
        (luma[i + 1] as number) +
        (luma[i - width] as number) +
        (luma[i + width] as number) -
        4 * (luma[i] as number);
      sum += value;
      squares += value * value;
    }
  }
  const count = Math.max(1, (width - 2) * (height - 2));
  const mean = sum / count;
  return squares / count - mean * mean;
}

/** Highest luma that each row and column has shown so far. */
function brightest(luma: Uint8Array, rows: Uint8Array, columns: Uint8Array): void {
  for (let y = 0, i = 0; y < rows.length; y++)
    for (let x = 0; x < columns.length; x++, i++) {
      const value = luma[i] as number;
      if (value > (rows[y] as number)) rows[y] = value;
      if (value > (columns[x] as number)) columns[x] = value;
    }
}

function borderShare(rows: Uint8Array, columns: Uint8Array): number {
  // Ringing of a codec lifts black a little beside a picture.
  const isBlack = (value: number): boolean => value < BLACK + 8;
  const share = (lines: Uint8Array): number => {
    const first = lines.findIndex((value) => !isBlack(value));
    // A clip that is black throughout has no border; it is `dark`.
    if (first < 0) return 0;
    const last = lines.findLastIndex((value) => !isBlack(value));
    return 1 - (last - first + 1) / lines.length;
  };
  return Math.max(share(rows), share(columns));
}

function meanDifference(a: Uint8Array, b: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += Math.abs((a[i] as number) - (b[i] as number));
  return sum / a.length;
}
