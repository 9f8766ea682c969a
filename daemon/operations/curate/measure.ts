/** Scores and features of one clip, from one decode for all providers. */
import { type Clip, type Context, type FrameView, type In, type Source, toWaverError } from "../../../plugins/index.ts";
import { Shared } from "./share.ts";

export interface Reader<T> {
  readonly id: string;
  readonly view: FrameView;
  readonly run: (input: In<"score">) => Promise<T>;
}

/**
 * What each reader makes of the clip. Equal views are one output of the decoder. A failure of one reader is that of the
 * clip; the decoder's own comes first, since the others only follow from it.
 */
export async function readClip<T>(
  clip: Clip,
  source: Source,
  readers: readonly Reader<T>[],
  ctx: Pick<Context, "media" | "signal">,
): Promise<T[]> {
  if (readers.length === 0) return [];
  const keyOf = ({ width, height, fit, rate, format, batch }: FrameView): string =>
    [width, height, fit, rate, format, batch].join(" ");
  const views = Object.fromEntries(readers.map(({ view }) => [keyOf(view), view]));
  const streams = ctx.media.fanOut(source.path, views, { start: clip.start, end: clip.end, signal: ctx.signal });
  const shared = new Map(Object.entries(streams).map(([key, stream]) => [key, new Shared(stream)]));
  const work = readers.map(async ({ run, view }) => {
    const frames = (shared.get(keyOf(view)) as Shared).branch();
    try {
      return await run({ clip, source, frames });
    } finally {
      // A reader that never looked must not hold the others back.
      frames.close();
    }
  });
  const pumps = [...shared.values()].map((each) => each.pump());
  const results = await Promise.allSettled(work);
  await Promise.all(pumps);
  const failures = results.flatMap((result) => (result.status === "rejected" ? [toWaverError(result.reason)] : []));
  const failure =
    failures.find(({ code }) => code === "cancelled") ??
    failures.find(({ code }) => code.startsWith("media_")) ??
    failures[0];
  if (failure !== undefined) throw failure;
  return results.map((result) => (result as PromiseFulfilledResult<Awaited<T>>).value);
}
