/** The tensor side of a plan: each stage of `generate` on tensors without data. */
import {
  allocatedBytes,
  empty,
  itemSize,
  Linear,
  type Module,
  offloadedBytes,
  ones,
  outline,
  outlinedBytes,
  Profile,
  passBytes,
  peakBytes,
  ratesOf,
  resetPeakBytes,
  type SequenceMode,
  scope,
  sequenceBytes,
  shardBytes,
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
import { FIRST_MS, pixelsOf, smaller } from "./preview.ts";
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

/** Bytes of a network's weights on a device: this is where plans take them from, however they are kept. */
export interface Sizes {
  /** All of it, with the copies that a CPU keeps in another layout. */
  readonly whole: number;
  /** With blocks that come and go; null where it has none. */
  readonly byBlocks: number | null;
  /** Of its blocks. */
  readonly blocks: number;
  /** On each of some ranks that keep a part of every block, and gather one at a time. */
  inParts(ranks: number): number;
}

export function sizesOf(module: Module, device: string): Sizes {
  const weights = weightBytes(module);
  const blocks = module.offloadable().map(weightBytes);
  const sum = blocks.reduce((a, b) => a + b, 0);
  return {
    whole: weights + (device === "cpu" ? packedBytes(module) : 0),
    byBlocks: blocks.length === 0 ? null : offloadedBytes(module),
    blocks: sum,
    inParts: (ranks) => weights - sum + sum / ranks + Math.max(0, ...blocks),
  };
}

/** Linear weights that are kept a second time, as products want them (`packLinears`). */
function packedBytes(module: Module): number {
  let sum = 0;
  for (const [, layer] of module.namedModules())
    if (layer instanceof Linear && layer.packs && layer.weight.dtype === "bfloat16")
      sum += layer.weight.bytesAs("bfloat16");
  return sum;
}

/** One run of `work` on tensors without data, as if on `device`. The tensors of its result are the caller's. */
export function measured<T>(
  device: string,
  work: () => T,
): { result: T; flops: number; peakBytes: number; seconds: number } {
  const { result, flops, peakBytes, seconds } = outline(device, work);
  return { result, flops, peakBytes, seconds: flops + peakBytes === 0 ? 0 : seconds(ratesOf(device)) };
}

/** How the ranks of a request share a network. */
export interface Sharing {
  readonly ranks: number;
  readonly replicas: number;
  readonly attention: SequenceMode;
  readonly ulysses: number | undefined;
  readonly shardWeights: boolean;
}

/** Bytes that ranks send each other in one pass of a network, beside its inputs and outputs: seen from one run without data. */
export function passTraffic(
  device: string,
  pass: () => void,
  { latents, patch = [1, 1, 1], blocks }: { latents: readonly number[]; patch: Denoiser["patch"]; blocks: number },
  { ranks, replicas, attention: mode, ulysses, shardWeights }: Sharing,
): number {
  const together = ranks / replicas;
  if (together === 1) return 0;
  const numTokens = patch.reduce(
    (tokens, side) => tokens / side,
    latents.slice(-3).reduce((a, b) => a * b, 1),
  );
  const layers = outline(device, pass).attentions.filter(
    ({ queries, keys }) => queries === keys && queries >= numTokens,
  );
  const bySize = Map.groupBy(layers, ({ queries }) => queries);
  const sent = [...bySize].map(([queries, like]) => {
    const { batch, heads, headDim, dtype } = like[0] as (typeof like)[number];
    const sizes = { batch, heads, headDim, numLayers: like.length, itemSize: itemSize(dtype) };
    return sequenceBytes(together, { ...sizes, numTokens, prefix: queries - numTokens }, { mode, ulysses });
  });
  return sent.reduce((a, b) => a + b, 0) + (shardWeights ? shardBytes(together, blocks) : 0);
}

export { passBytes };

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
    scope(() => {
      const pixels = chunk.to("float32").div(2).add(0.5).clamp(0, 1).mul(255).round().to("uint8");
      return void pixels.permute([0, 2, 3, 4, 1]).contiguous(); // packed, as an encoder wants them
    });
    chunk.dispose();
  }
}

/** What a preview takes beside the denoising it interrupts; nothing where that is over before the first. */
export function previewBytes(device: string, codec: Codec, shape: readonly number[], seconds: number): number {
  const [, channels, , rows, columns] = shape as [number, number, number, number, number];
  if (1000 * seconds < FIRST_MS) return 0;
  const { peakBytes } = measured(device, () => {
    pixelsOf(codec.decode(smaller(shaped(1, channels, 1, rows, columns))).float());
  });
  return peakBytes;
}
