/** How far one video is from another that was made of the same noise. */
import { scope, type Tensor } from "../../../native/index.ts";
import type { Codec, FrameBatch } from "../../../plugins/index.ts";
import type { Drift } from "../../generation/acceleration.ts";
import { decoded } from "./decode.ts";

/** |x - plain| / |plain| */
const relativeDistance = (x: Tensor, plain: Tensor): number =>
  scope(() => x.to("float64").sub(plain.to("float64")).norm().div(plain.to("float64").norm()).item() as number);

/** Latents [1 C T h w] of both; decoded side by side, a chunk at a time. */
export async function driftBetween(
  codec: Codec,
  [x, plain]: readonly [Tensor, Tensor],
  breathe: (done: number) => Promise<void>,
): Promise<Omit<Drift, "sample">> {
  using video = decoded(codec, x, { fps: 1, keep: false, breathe });
  using other = decoded(codec, plain, { fps: 1, keep: false, breathe: async () => undefined });
  const its = frames(other.frames);
  const sums = { squares: 0, motion: 0, plainMotion: 0 };
  let [numFrames, size] = [0, 0];
  let before: { readonly frame: Uint8Array; readonly plain: Uint8Array } | undefined;
  for await (const frame of frames(video.frames)) {
    const plain = (await its.next()).value as Uint8Array;
    sums.squares += sumOf(frame, plain, (difference) => difference ** 2);
    if (before !== undefined) {
      sums.motion += sumOf(frame, before.frame, Math.abs);
      sums.plainMotion += sumOf(plain, before.plain, Math.abs);
    }
    before = { frame, plain };
    numFrames += 1;
    size = frame.length;
  }
  const values = numFrames * size;
  const pairs = (numFrames - 1) * size;
  return {
    latents: relativeDistance(x, plain),
    psnr: sums.squares === 0 ? null : 10 * Math.log10(255 ** 2 / (sums.squares / values)),
    ...(pairs === 0 ? {} : { motion: sums.motion / pairs, plainMotion: sums.plainMotion / pairs }),
  };
}

async function* frames(batches: AsyncIterable<FrameBatch>): AsyncGenerator<Uint8Array> {
  for await (const { data, count } of batches) {
    const size = data.length / count;
    for (let i = 0; i < count; i++) yield data.subarray(i * size, (i + 1) * size);
  }
}

function sumOf(a: Uint8Array, b: Uint8Array, of: (difference: number) => number): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += of((a[i] as number) - (b[i] as number));
  return sum;
}
