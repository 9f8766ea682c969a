/** One vector for a clip from vectors of its frames. */
import type { Context } from "./define.ts";
import { WaverError } from "./errors.ts";
import type { FrameBatch } from "./types.ts";

/** The mean over all frames, scaled to length 1 so that a dot product is a cosine. `sumOf` adds up the vectors of one batch. */
export async function meanOfFrames(
  frames: AsyncIterable<FrameBatch>,
  sumOf: (batch: FrameBatch) => Float32Array,
  ctx: Pick<Context, "breathe">,
): Promise<Float32Array<ArrayBuffer>> {
  let sum: Float64Array | undefined;
  for await (const batch of frames) {
    if (batch.format !== "rgb24") throw new WaverError("invalid_input", "image features need rgb24 frames");
    const total = sumOf(batch);
    sum ??= new Float64Array(total.length);
    for (const [i, value] of total.entries()) sum[i] = (sum[i] as number) + value;
    await ctx.breathe();
  }
  const length = sum === undefined ? 0 : Math.hypot(...sum);
  if (sum === undefined || length === 0) throw new WaverError("media_empty", "a clip without frames has no features");
  return Float32Array.from(sum, (value) => value / length);
}
