/**
 * Resizing of packed RGB as Pillow does it for 8-bit images, to the last bit: Lanczos of three lobes, widened when it
 * shrinks, first along rows, then along columns, in 22-bit fixed point with rounding to bytes in between. The reference
 * pipelines of image-to-video prepare their image so.
 */
import type { FrameBatch } from "../../plugins/types.ts";

/** Bits behind the point (Pillow, Resample.c: 32 - 8 - 2). */
const PRECISION = 2 ** 22;
const LOBES = 3;

const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const lanczos = (x: number): number => (x >= -LOBES && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0);

/** For each output pixel: the first input pixel it is made of, and the weights of that one and the next. */
interface Weights {
  readonly first: Int32Array;
  readonly weights: readonly Float64Array[];
}

/** `from` pixels, of which the span [start, start + length) is stretched to `to` pixels. */
function weightsOf(from: number, to: number, start: number, length: number): Weights {
  const scale = length / to;
  const widened = Math.max(scale, 1);
  const support = LOBES * widened;
  const first = new Int32Array(to);
  const weights = Array.from({ length: to }, (_, i) => {
    const center = start + (i + 0.5) * scale;
    const min = Math.max(0, Math.trunc(center - support + 0.5));
    const max = Math.min(from, Math.trunc(center + support + 0.5));
    first[i] = min;
    const raw = Float64Array.from({ length: max - min }, (_, j) => lanczos((j + min - center + 0.5) / widened));
    const sum = raw.reduce((a, b) => a + b, 0);
    return raw.map((each) => {
      const fixed = (each / sum) * PRECISION;
      return Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    });
  });
  return { first, weights };
}

/** A span of one axis that is used: where it starts and how long it is, in pixels of the input. */
type Span = readonly [start: number, length: number];

/** data [outer, from, inner] -> [outer, to, inner], resized along the middle axis. */
function resample(
  data: Uint8Array,
  [outer, from, inner]: readonly [number, number, number],
  to: number,
  span: Span,
): Uint8Array {
  if (from === to && span[0] === 0 && span[1] === from) return data;
  const { first, weights } = weightsOf(from, to, ...span);
  const out = new Uint8Array(outer * to * inner);
  const sums = new Float64Array(inner);
  for (let o = 0; o < outer; o++)
    for (let i = 0; i < to; i++) {
      sums.fill(PRECISION / 2);
      const each = weights[i] as Float64Array;
      for (let j = 0; j < each.length; j++) {
        const weight = each[j] as number;
        const at = (o * from + (first[i] as number) + j) * inner;
        for (let c = 0; c < inner; c++) sums[c] = (sums[c] as number) + (data[at + c] as number) * weight;
      }
      const at = (o * to + i) * inner;
      for (let c = 0; c < inner; c++)
        out[at + c] = Math.min(255, Math.max(0, Math.floor((sums[c] as number) / PRECISION)));
    }
  return out;
}

/** A picture in another size: stretched to it, or cut to its aspect first (`cover`: the middle is kept). */
export function resizeImage(
  image: FrameBatch,
  size: { readonly width: number; readonly height: number },
  fit: "stretch" | "cover",
): FrameBatch {
  const scale = fit === "cover" ? Math.min(image.width / size.width, image.height / size.height) : null;
  const span = (from: number, to: number): Span => (scale === null ? [0, from] : [(from - to * scale) / 2, to * scale]);
  const wide = resample(image.data, [image.height, image.width, 3], size.width, span(image.width, size.width));
  const data = resample(wide, [1, image.height, size.width * 3], size.height, span(image.height, size.height));
  return { ...image, data, ...size };
}
