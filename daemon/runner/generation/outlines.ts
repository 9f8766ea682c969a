/** The tensor side of a plan: each stage of `generate` on tensors without data. */
import {
  allocatedBytes,
  empty,
  itemSize,
  type Module,
  offloadedBytes,
  ones,
  outline,
  outlinedBytes,
  Profile,
  packingPays,
  peakBytes,
  ratesOf,
  resetPeakBytes,
  scope,
  Tensor,
} from "../../../native/index.ts";
import type {
  Codec,
  Conditioning,
  Denoiser,
  DenoiserInput,
  ImageEncoder,
  KnownFrames,
  TextEncoder,
} from "../../../plugins/index.ts";
import type { Size } from "../../generation/request.ts";
import { joinTexts, joinTokens, Held as Owned, repeatKnown } from "./tensors.ts";

export class Held extends Owned {
  /** Bytes of the tensors in a value. */
  bytes(value: unknown): number {
    if (value instanceof Tensor) return value.numel * itemSize(value.dtype);
    if (typeof value !== "object" || value === null) return 0;
    return Object.values(value).reduce<number>((sum, each) => sum + this.bytes(each), 0);
  }
}

export function weightBytes(module: Module): number {
  let sum = 0;
  for (const [, weight] of module.namedWeights()) sum += weight.declaredNumel * itemSize(weight.dtype);
  return sum;
}

/** What a network takes on a device: as a whole, packed copies on a CPU included, and with blocks that come and go, where it has any. */
export function sizesOf(module: Module, device: string): { whole: number; byBlocks: number | null } {
  const whole = weightBytes(module);
  const isBfloat16 = Array.from(module.namedWeights()).some(([, weight]) => weight.dtype === "bfloat16");
  const twice = device === "cpu" && isBfloat16 && packingPays(whole);
  return {
    whole: twice ? 2 * whole : whole,
    byBlocks: module.offloadable().length === 0 ? null : offloadedBytes(module),
  };
}

/** One run of `work` on tensors without data, as if on `device`. The tensors of its result are the caller's. */
export function measured<T>(
  device: string,
  work: () => T,
): { result: T; flops: number; peakBytes: number; seconds: number } {
  const { result, flops, peakBytes, seconds } = outline(device, work);
  return { result, flops, peakBytes, seconds: flops + peakBytes === 0 ? 0 : seconds(ratesOf(device)) };
}

export const rates = (device: string): Readonly<Record<string, number>> => ratesOf(device).said();

export { outlinedBytes };

export const operators = (): Profile => new Profile();

/** What libtorch has allocated on the CPU. */
export const cpuMemory = { allocated: allocatedBytes, peak: peakBytes, reset: resetPeakBytes };

const shaped = (...shape: number[]): Tensor => empty(shape, { device: "meta" });

/** All texts through an encoder; of a batch, the longest. */
export function encodeTexts(
  encoder: TextEncoder,
  texts: readonly string[],
  batch: number,
  length: number | undefined,
): Conditioning {
  const encoded = texts.map((text) => encoder.encode([text]));
  const longest = encoded.reduce((a, b) => (b.mask.size(1) > a.mask.size(1) ? b : a));
  return joinTexts(
    Array.from({ length: batch }, () => longest),
    length,
  );
}

/** A picture of any size: the encoder makes it its own. */
export const encodeImages = (encoder: ImageEncoder, count: number, batch: number): DenoiserInput["image"] =>
  joinTokens(
    Array.from({ length: count }, () => encoder.encode(empty([1, 3, 512, 512], { dtype: "uint8", device: "meta" }))),
    batch,
  );

export const knownFrames = (
  family: Denoiser,
  codec: Codec,
  { width, height, numFrames }: Size,
  isGiven: boolean,
): KnownFrames | undefined =>
  family.condition?.(
    shaped(1, 3, numFrames, height, width),
    Array.from({ length: numFrames }, (_, i) => isGiven && i === 0),
    codec,
  );

export interface Told {
  /** [1 C T h w] */
  readonly shape: readonly number[];
  readonly batch: number;
  readonly texts: readonly Conditioning[];
  readonly known: KnownFrames | undefined;
  readonly image: DenoiserInput["image"] | undefined;
}

/** One pass through a denoiser. */
export function forward(network: Denoiser, { shape, batch, texts, known, image }: Told): Tensor {
  const [text, text2] = texts;
  return network.forward({
    latents: shaped(batch, ...shape.slice(1)),
    t: ones([batch], { dtype: "float64", device: "meta" }),
    text: text as Conditioning,
    ...(text2 === undefined ? {} : { text2 }),
    ...(known === undefined ? {} : { known: repeatKnown(known, batch) }),
    ...(image === undefined ? {} : { image }),
  });
}

/** Latents to pixels, a chunk at a time. */
export function decode(codec: Codec, shape: readonly number[]): void {
  for (const chunk of codec.decodeChunks(shaped(...shape))) {
    scope(() => void chunk.to("float32").div(2).add(0.5).clamp(0, 1).mul(255).round().to("uint8"));
    chunk.dispose();
  }
}
