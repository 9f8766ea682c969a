/** Choosing frames of a clip for a model that looks at few of them. */
import type { FrameBatch } from "./types.ts";

/** Frames held while they are chosen: clips are ten seconds at most, but a caller may send more. */
const MAX_HELD = 256;

/** At most `count` frames spread evenly over a stream, one a batch; the stream is thinned as it goes, so that long ones stay in bounds. */
export async function spreadFrames(frames: AsyncIterable<FrameBatch>, count: number): Promise<FrameBatch[]> {
  let held: FrameBatch[] = [];
  let stride = 1;
  let seen = 0;
  for await (const batch of frames) {
    const size = batch.data.length / batch.count;
    for (let i = 0; i < batch.count; i++, seen++) {
      if (seen % stride !== 0) continue;
      held.push({
        ...batch,
        data: batch.data.slice(i * size, (i + 1) * size),
        count: 1,
        times: [batch.times[i] as number],
      });
      if (held.length < MAX_HELD) continue;
      held = held.filter((_, index) => index % 2 === 0);
      stride *= 2;
    }
  }
  if (held.length <= count) return held;
  return Array.from(
    { length: count },
    (_, i) => held[count === 1 ? 0 : Math.round((i * (held.length - 1)) / (count - 1))] as FrameBatch,
  );
}
