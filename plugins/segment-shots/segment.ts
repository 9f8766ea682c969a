/** Frames of a source -> its shots in seconds. */
import { basename } from "node:path";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import type { ClipFrames } from "../types.ts";
import type { Detector } from "./detectors.ts";
import { featureCuts, type Refine } from "./refine.ts";

export interface Span {
  readonly start: number;
  readonly end: number;
}

export async function segment(
  input: ClipFrames,
  detector: Detector,
  ctx: Context,
  refine: Refine | undefined,
): Promise<Span[]> {
  const { clip, source } = input;
  const cuts: number[] = [];
  let seen = 0;
  for await (const batch of input.frames) {
    const size = batch.data.length / batch.count;
    for (let i = 0; i < batch.count; i++) cuts.push(...detector.next(batch.data.subarray(i * size, (i + 1) * size)));
    seen += batch.count;
    ctx.progress(Math.min(seen, source.numFrames), source.numFrames, "frames");
    await ctx.breathe();
  }
  if (seen < 2) {
    throw new WaverError(
      "media_too_short",
      `${basename(source.path)} has ${seen === 1 ? "one frame" : "no frames"}, which makes no shot`,
      {
        hint: "use a video of at least two frames",
      },
    );
  }
  cuts.push(...detector.finish());
  const edges = [...new Set(cuts)].sort((a, b) => a - b).filter((frame) => frame > 0 && frame < seen);
  const times = [
    clip.start,
    ...edges.map((frame) => clip.start + frame / source.fps),
    Math.min(clip.end, clip.start + seen / source.fps),
  ];
  const shots = times.slice(1).map((end, i) => ({ start: times[i] as number, end }));
  if (refine === undefined) return shots;
  const refined: Span[] = [];
  for (const shot of shots) {
    const inner = await featureCuts(shot, source, refine, ctx);
    const all = [shot.start, ...inner, shot.end];
    refined.push(...all.slice(1).map((end, i) => ({ start: all[i] as number, end })));
  }
  return refined;
}
