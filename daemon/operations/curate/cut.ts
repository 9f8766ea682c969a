/** A source -> the spans of its clips. */
import { z } from "zod";
import { type Context, type Pick, type Source, WaverError } from "../../../plugins/index.ts";
import { clipOf } from "./clip.ts";
import type { Embedder } from "./embedder.ts";
import { readClip } from "./measure.ts";
import { type ClipRule, clipSpans, featuresAlong, type Span } from "./shots.ts";

const Cut = z.object({
  shots: z.int(),
  short: z.int(),
  spans: z.array(z.object({ start: z.number(), end: z.number() })),
});

export async function cutSource(
  source: Source,
  pick: Pick,
  rule: ClipRule,
  embedder: Embedder | null,
  ctx: Context,
): Promise<z.output<typeof Cut>> {
  return ctx.unit(`cut ${source.id} ${JSON.stringify([pick, rule, embedder?.id ?? null])}`, Cut, async () => {
    const { id, ...options } = pick;
    const view = ctx.providers("segment").find((each) => each.id === id)?.traits.view;
    if (view === undefined) throw new WaverError("no_provider", `no provider of segment is called ${id}`);
    using segment = await ctx.use("segment", id, options);
    const [shots] = await readClip(
      clipOf(source, { start: 0, end: source.duration }),
      source,
      [{ id, view, run: segment }],
      ctx,
    );
    const features = async (shot: Span): Promise<Float32Array[]> =>
      embedder === null ? [] : featuresAlong(shot, source, embedder.view, embedder.run, ctx);
    return { shots: (shots ?? []).length, ...(await clipSpans(shots ?? [], rule, features)) };
  });
}
