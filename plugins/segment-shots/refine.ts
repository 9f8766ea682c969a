/**
 * Waver 3.1: features of neighbouring moments whose cosine falls below a threshold mark a change of shot that colours
 * did not show (a dissolve, a cut between alike scenes).
 */
import type { Context } from "../define.ts";
import { Digest, type FrameBatch, type Source } from "../types.ts";
import type { Span } from "./segment.ts";

export interface Refine {
  readonly embed: string;
  readonly threshold: number;
  readonly step: number;
}

/** Times inside a shot at which it changes; a change less than two steps after the last is the same one. */
export async function featureCuts(shot: Span, source: Source, refine: Refine, ctx: Context): Promise<number[]> {
  if (shot.end - shot.start < 2 * refine.step) return [];
  const view = ctx.providers("embed").find((each) => each.id === refine.embed)?.traits.view;
  using embed = await ctx.use("embed", refine.embed);
  const cuts: number[] = [];
  let before: Float32Array | null = null;
  for (let start = shot.start; start + refine.step <= shot.end + 1e-6; start += refine.step) {
    const end = start + refine.step;
    const clip = {
      id: Digest.parse(`sha256:${new Bun.CryptoHasher("sha256").update(`${source.id} ${start} ${end}`).digest("hex")}`),
      source: source.id,
      start,
      end,
    };
    const frames =
      view === undefined ? nothing() : ctx.media.frames(source.path, view, { start, end, signal: ctx.signal });
    const now = await embed({ clip, source, frames });
    const last = cuts.at(-1) ?? shot.start;
    if (before !== null && cosine(before, now) < refine.threshold && start - last >= 2 * refine.step - 1e-6)
      cuts.push(start);
    before = now;
    await ctx.breathe();
  }
  return cuts;
}

async function* nothing(): AsyncGenerator<FrameBatch> {
  yield* [];
}

function cosine(a: Float32Array, b: Float32Array): number {
  let dot = 0,
    aa = 0,
    bb = 0;
  for (let i = 0; i < a.length; i++) {
    dot += (a[i] as number) * (b[i] as number);
    aa += (a[i] as number) ** 2;
    bb += (b[i] as number) ** 2;
  }
  return dot / Math.max(1e-12, Math.sqrt(aa * bb));
}
