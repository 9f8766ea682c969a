/** Rows of the clip table: every clip measured and captioned, each a unit of its own. */
import { basename } from "node:path";
import { z } from "zod";
import {
  Caption,
  type ClipRow,
  type Context,
  type Pick,
  Scores,
  type Source,
  toWaverError,
  WaverError,
} from "../../../plugins/index.ts";
import { ErrorBodySchema } from "../../wire.ts";
import { captionOf, openCaptioners, split } from "./captions.ts";
import { clipOf } from "./clip.ts";
import type { Embedder } from "./embedder.ts";
import { isProviderFailure, passable } from "./failure.ts";
import { type Reader, readClip } from "./measure.ts";
import { AT_ONCE, eachAtOnce } from "./pool.ts";
import type { Span } from "./shots.ts";

export interface Job {
  readonly source: Source;
  readonly span: Span;
}

const Measured = z.union([
  z.object({ scores: Scores, embedding: z.string().nullable(), caption: Caption.nullable() }),
  z.object({ error: ErrorBodySchema }),
]);

export async function measureAll(
  jobs: readonly Job[],
  chosen: { scorers: readonly Pick[]; captioners: readonly Pick[] },
  embedder: Embedder | null,
  ctx: Context,
): Promise<ClipRow[]> {
  const readers = await openScorers(chosen.scorers, ctx);
  const { blind } = split(await openCaptioners(chosen.captioners, ctx));
  const key = JSON.stringify([chosen.scorers, chosen.captioners, embedder?.id ?? null]);
  let done = 0;
  const failures: WaverError[] = [];
  const rows = await eachAtOnce(jobs, AT_ONCE, async ({ source, span }) => {
    const clip = clipOf(source, span);
    // The path belongs to the key: captions go by names, and two names may hold one content.
    const unit = ctx.unit(`measure ${clip.id} ${source.path} ${key}`, Measured, async () => {
      try {
        const all: Reader<Scores | Float32Array>[] =
          embedder === null ? readers : [...readers, { id: embedder.id, view: embedder.view, run: embedder.run }];
        const results = await readClip(clip, source, all, ctx);
        const scores = Object.assign({}, ...readers.map(({ id }, i) => named(id, results[i] as Scores))) as Scores;
        const embedding = embedder === null ? null : base64(results.at(-1) as Float32Array);
        return { scores, embedding, caption: await captionOf(clip, source, blind, ctx) };
      } catch (cause) {
        return { error: passable(cause).toBody() };
      }
    });
    // A provider's own failure is not published: the next attempt asks it again.
    const measured = await unit.catch((cause: unknown) => {
      const error = toWaverError(cause);
      if (!isProviderFailure(error)) throw error;
      ctx.log("clip_failed", { clip: clip.id, code: error.code, message: error.message });
      failures.push(error);
      return { error: error.toBody() };
    });
    ctx.progress(++done, jobs.length, "clips", { file: basename(source.path), start: span.start });
    await ctx.breathe();
    return rowOf(source, span, measured, embedder?.id ?? null);
  });
  // One clip may be odd; when none can be measured it is the provider.
  if (failures[0] !== undefined && failures.length === jobs.length) throw failures[0];
  return rows;
}

async function openScorers(picks: readonly Pick[], ctx: Context): Promise<Reader<Scores>[]> {
  const known = ctx.providers("score");
  return Promise.all(
    picks.map(async ({ id, ...options }) => {
      const run = await ctx.use("score", id, options);
      const view = known.find((each) => each.id === id)?.traits.view;
      if (view === undefined) throw new WaverError("no_provider", `no provider of score is called ${id}`);
      return { id, view, run };
    }),
  );
}

/** A measure that is not a number is left out: a rule about it then says that it is not known. */
const named = (id: string, scores: Scores): Scores =>
  Object.fromEntries(
    Object.entries(scores).flatMap(([measure, value]) => (Number.isFinite(value) ? [[`${id}.${measure}`, value]] : [])),
  );

const base64 = (values: Float32Array): string =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");

function rowOf(source: Source, span: Span, measured: z.output<typeof Measured>, embeddedBy: string | null): ClipRow {
  const ok = "scores" in measured ? measured : null;
  const embedding =
    ok?.embedding == null ? null : new Float32Array(new Uint8Array(Buffer.from(ok.embedding, "base64")).buffer);
  return {
    id: clipOf(source, span).id,
    source: source.id,
    path: source.path,
    tag: source.tag,
    start: span.start,
    end: span.end,
    width: source.width,
    height: source.height,
    fps: source.fps,
    ...captionFields(ok?.caption ?? null),
    embeddedBy: embedding === null ? null : embeddedBy,
    embedding,
    dropped: "error" in measured ? "curate/error" : null,
    reason: "error" in measured ? measured.error.message : null,
    stage: null,
    repeat: 1,
    scores: ok?.scores ?? {},
  };
}

const captionFields = (
  caption: Caption | null,
): { caption: string | null; captionBy: string | null; actions: string | null } => ({
  caption: caption?.text ?? null,
  captionBy: caption?.by ?? null,
  actions: caption?.actions === undefined ? null : JSON.stringify(caption.actions),
});

/** Captions for kept clips that have none yet; what nobody has words for cannot be learned from and is dropped. */
export async function captionKept(
  rows: readonly ClipRow[],
  jobs: readonly Job[],
  picks: readonly Pick[],
  ctx: Context,
): Promise<ClipRow[]> {
  const { seeing } = split(await openCaptioners(picks, ctx));
  const sources = new Map(jobs.map(({ source }) => [source.path, source]));
  const waiting = rows.filter((row) => row.dropped === null && row.caption === null).length;
  let done = 0;
  return eachAtOnce(rows, AT_ONCE, async (row) => {
    if (row.dropped !== null || row.caption !== null) return row;
    const source = sources.get(row.path) as Source;
    const clip = clipOf(source, row);
    const { caption } = await ctx.unit(
      `caption ${clip.id} ${row.path} ${JSON.stringify(picks)}`,
      z.object({ caption: Caption.nullable() }),
      async () => ({
        caption: await captionOf(clip, source, seeing, ctx),
      }),
    );
    if (seeing.length > 0) ctx.progress(++done, waiting, "captions", { file: basename(row.path) });
    await ctx.breathe();
    return caption === null
      ? { ...row, dropped: "curate/caption", reason: "no captioner has words for it" }
      : { ...row, ...captionFields(caption) };
  });
}
