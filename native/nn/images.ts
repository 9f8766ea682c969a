// Images as vision networks take them: resized, cut and normalised, in torchvision's arithmetic.
import { EngineError } from "../errors.ts";
import { interpolate, pad } from "../functional.ts";
import { fromBytes, tensor } from "../ops.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";

export interface ImageSettings {
  /** The shorter side after resizing, or both sides; null leaves the size alone. */
  readonly resize: { readonly shortestEdge: number } | { readonly height: number; readonly width: number } | null;
  readonly resample: "nearest-exact" | "bilinear" | "bicubic";
  /** Cut from the middle; black is added where the image is smaller. */
  readonly crop: { readonly height: number; readonly width: number } | null;
  /** What a grey level is multiplied by. */
  readonly rescale: number | null;
  readonly normalize: { readonly mean: readonly number[]; readonly std: readonly number[] } | null;
}

/** Packed RGB frames, as decoders give them -> uint8 [B 3 H W] on the CPU. */
export function packedImages({ data, count, height, width }: PackedImages): Tensor {
  return scope(() => fromBytes(data, "uint8", [count, height, width, 3]).permute([0, 3, 1, 2]).contiguous());
}
/** The same of frames in several pieces, all of one size. */
export function joinedImages(parts: readonly PackedImages[]): Tensor {
  const data = new Uint8Array(parts.reduce((sum, part) => sum + part.data.length, 0));
  let [at, count] = [0, 0];
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
    count += part.count;
  }
  const { height, width } = parts[0] as PackedImages;
  return packedImages({ data, count, height, width });
}
export interface PackedImages {
  readonly data: Uint8Array;
  readonly count: number;
  readonly height: number;
  readonly width: number;
}

/**
 * images uint8 [B C H W] on the CPU -> float32 [B C h w]. Resizing is antialiased and stays in whole grey levels, as
 * torchvision's; then transformers' order: cut, scale and normalise in one.
 */
export function preprocessImages(
  images: Tensor,
  { resize, resample, crop, rescale, normalize }: ImageSettings,
): Tensor {
  if (images.ndim !== 4 || images.dtype !== "uint8")
    throw new EngineError("tensor_shape", `images are uint8 [B C H W], not ${images.dtype} [${images.shape}]`);
  return scope(() => {
    let x = images;
    if (resize !== null) x = resizeTo(x, "shortestEdge" in resize ? around(x, resize.shortestEdge) : resize, resample);
    if (crop !== null) x = cropTo(x, crop);
    const levels = x.to("float32");
    if (normalize === null) return rescale === null ? levels : levels.mul(rescale);
    // the mean is moved to the levels' scale instead of every pixel to the mean's
    const scale = rescale === null ? 1 : Math.fround(1 / rescale);
    const channels = (values: readonly number[]): Tensor =>
      tensor(Float32Array.from(values)).mul(scale).view([1, -1, 1, 1]);
    return levels.sub(channels(normalize.mean)).div(channels(normalize.std));
  });
}

interface Size {
  readonly height: number;
  readonly width: number;
}

/** The size at which the shorter side has `edge` pixels; the longer is rounded down. */
function around(x: Tensor, edge: number): Size {
  const [height, width] = [x.size(2), x.size(3)];
  const long = Math.floor((edge * Math.max(height, width)) / Math.min(height, width));
  return height <= width ? { height: edge, width: long } : { height: long, width: edge };
}

function resizeTo(x: Tensor, { height, width }: Size, mode: ImageSettings["resample"]): Tensor {
  if (x.size(2) === height && x.size(3) === width) return x;
  return interpolate(x, { size: [height, width], mode, antialias: mode !== "nearest-exact" });
}

function cropTo(x: Tensor, { height, width }: Size): Tensor {
  const [missingY, missingX] = [Math.max(0, height - x.size(2)), Math.max(0, width - x.size(3))];
  const whole =
    missingY === 0 && missingX === 0
      ? x
      : pad(x, [missingX >> 1, (missingX + 1) >> 1, missingY >> 1, (missingY + 1) >> 1]);
  const [top, left] = [(whole.size(2) - height) >> 1, (whole.size(3) - width) >> 1];
  return whole.narrow(2, top, height).narrow(3, left, width);
}
