/**
 * From shots to clips (Waver 3.1): what lasts from `minSeconds` to `maxSeconds` is a clip; of a longer shot the parts
 * whose features agree least with each other are taken, since there most happens.
 */
import type { ClipFrames, Context, FrameBatch, FrameView, In, Source } from "../../../plugins/index.ts";
import { clipOf } from "./clip.ts";

export interface Span {
  readonly start: number;
  readonly end: number;
}

export interface ClipRule {
  readonly minSeconds: number;
  readonly maxSeconds: number;
}

/** Seconds that one feature of a long shot stands for; clips of ten seconds then start on a grid of twenty places. */
const STEP = 0.5;
/** Clips taken from one shot, so that an hour of one take does not fill the set. Ours: the report says "sample segments". */
const MOST = 6;
/** A cut lies on a frame; times are compared with this much slack, less than a frame of 500 a second. */
const SLACK = 2e-3;

type Features = (shot: Span) => Promise<readonly Float32Array[]>;

/** Clips of all shots, in order, and how many shots were too short. */
export async function clipSpans(
  shots: readonly Span[],
  rule: ClipRule,
  features: Features,
): Promise<{ spans: Span[]; short: number }> {
  const spans: Span[] = [];
  let short = 0;
  for (const shot of shots) {
    const length = shot.end - shot.start;
    if (length < rule.minSeconds - SLACK) short++;
    else if (length <= rule.maxSeconds + SLACK) spans.push(shot);
    else spans.push(...longShot(shot, rule, await features(shot)));
  }
  return { spans, short };
}

function longShot(shot: Span, rule: ClipRule, features: readonly Float32Array[]): Span[] {
  const window = Math.max(1, Math.floor((rule.maxSeconds + SLACK) / STEP));
  const places = leastAlike(features, window, MOST);
  // Too few features to choose from: the beginning is as good as any part.
  if (places.length === 0) return [{ start: shot.start, end: shot.start + rule.maxSeconds }];
  return places.map((place) => ({
    start: shot.start + place * STEP,
    end: Math.min(shot.end, shot.start + (place + window) * STEP),
  }));
}

/** Starts of the windows with the lowest mean cosine of all pairs inside, without overlap, in order. */
export function leastAlike(features: readonly Float32Array[], window: number, most: number): number[] {
  const dim = features[0]?.length ?? 0;
  const units = features.map((feature) => {
    const length = Math.hypot(...feature);
    return length === 0 ? feature : feature.map((value) => value / length);
  });
  const candidates: { place: number; alike: number }[] = [];
  for (let place = 0; place + window <= units.length; place++) {
    const sum = new Float64Array(dim);
    for (const unit of units.slice(place, place + window)) for (let i = 0; i < dim; i++) sum[i]! += unit[i] as number;
    // |sum|^2 = window + 2 x the sum over pairs, for vectors of length 1.
    const pairs = sum.reduce((total, value) => total + value * value, 0) - window;
    candidates.push({ place, alike: window < 2 ? 0 : pairs / (window * (window - 1)) });
  }
  const chosen: number[] = [];
  for (const { place } of candidates.toSorted((a, b) => a.alike - b.alike || a.place - b.place)) {
    if (chosen.length === most) break;
    if (chosen.every((other) => Math.abs(other - place) >= window)) chosen.push(place);
  }
  return chosen.toSorted((a, b) => a - b);
}

/** Features along a shot, one a step, from one decode. */
export async function featuresAlong(
  shot: Span,
  source: Source,
  view: FrameView,
  embed: (input: In<"embed">) => Promise<Float32Array>,
  ctx: Pick<Context, "media" | "signal" | "breathe">,
): Promise<Float32Array[]> {
  const features: Float32Array[] = [];
  let held: FrameBatch[] = [];
  const flush = async (): Promise<void> => {
    const start = shot.start + features.length * STEP;
    const frames = held;
    held = [];
    const input: ClipFrames = {
      clip: clipOf(source, { start, end: Math.min(shot.end, start + STEP) }),
      source,
      frames: listed(frames),
    };
    features.push(await embed(input));
    await ctx.breathe();
  };
  for await (const batch of ctx.media.frames(
    source.path,
    { ...view, batch: 1 },
    { start: shot.start, end: shot.end, signal: ctx.signal },
  )) {
    if ((batch.times[0] as number) >= shot.start + (features.length + 1) * STEP - SLACK && held.length > 0)
      await flush();
    held.push(batch);
  }
  if (held.length > 0) await flush();
  return features;
}

async function* listed(batches: readonly FrameBatch[]): AsyncGenerator<FrameBatch> {
  yield* batches;
}
