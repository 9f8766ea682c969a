/** Judges generated clips by their files alone: which training clip each is nearest to, how much it moves, how sharp it is. */
import { basename } from "node:path";
import { z } from "zod";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import {
  type ClipFrames,
  Digest,
  type EvalSet,
  type Evaluation,
  type FrameBatch,
  type FrameView,
  Scores,
  type Source,
} from "../types.ts";
import { averages, chance, match, matchCentred } from "./nearest.ts";
import { isImage, motion, type Pixels, perFrame, psnr, readPixels, sharpness, ssim } from "./pixels.ts";

/** `features`: base64 of float32, so that a resumed evaluation has them too. */
const Judged = z.object({ scores: Scores, nearest: z.string(), features: z.string() });

export async function judgeClips(
  { items, references }: EvalSet,
  embedder: string | undefined,
  ctx: Context,
): Promise<Evaluation> {
  if (items.length === 0) throw new WaverError("invalid_input", "there is nothing to judge: the set has no items");
  const features = await featuresOf(embedder, ctx);
  const known: Float32Array[] = [];
  const [moves, sharps]: [number[], number[]] = [[], []];
  for (const [i, { video }] of references.entries()) {
    known.push(await features(video));
    const pixels = await readPixels(video, ctx);
    moves.push(motion(pixels));
    sharps.push(sharpness(pixels));
    ctx.progress(i + 1, references.length, "training clips");
    await ctx.breathe();
  }
  const judged: Record<string, Scores> = {};
  const notes: Record<string, string> = {};
  const made: Float32Array[] = [];
  for (const [i, item] of items.entries()) {
    const {
      scores,
      nearest,
      features: encoded,
    } = await ctx.unit(`evaluate-clips/${item.id}`, Judged, async () => {
      const pixels = await readPixels(item.video, ctx);
      const scores: Record<string, number> = { motion: motion(pixels), sharpness: sharpness(pixels) };
      if (item.reference !== undefined) Object.assign(scores, await likeness(pixels, item.reference, ctx));
      if (known.length === 0) return { scores, nearest: "", features: "" };
      const vector = await features(item.video);
      const found = match(item, vector, references, known);
      scores["memorised"] = found.isPrompted ? 1 : 0;
      scores["nearestSimilarity"] = found.similarity;
      if (found.promptedSimilarity !== null) scores["promptedSimilarity"] = found.promptedSimilarity;
      if (found.promptedRank !== null) scores["promptedRank"] = found.promptedRank;
      return { scores, nearest: references[found.nearest]?.id ?? "", features: toBase64(vector) };
    });
    judged[item.id] = scores;
    if (nearest !== "") notes[item.id] = nearest;
    if (encoded !== "") made.push(fromBase64(encoded));
    ctx.progress(i + 1, items.length, "generated clips");
    await ctx.breathe();
  }
  const apart = known.length === 0 ? null : matchCentred(items, made, references, known);
  for (const [i, { isPrompted }] of (apart ?? []).entries()) {
    const { id } = items[i] as { id: string };
    judged[id] = { ...judged[id], memorisedCentred: isPrompted ? 1 : 0 };
  }
  const numOf = (measure: string): number => Object.values(judged).filter((scores) => scores[measure] === 1).length;
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  return {
    summary: {
      ...averages(judged),
      numItems: items.length,
      ...(references.length > 0
        ? {
            numMemorised: numOf("memorised"),
            ...(apart === null ? {} : { numMemorisedCentred: numOf("memorisedCentred") }),
            memorisedChance: chance(items, references),
            referenceMotion: mean(moves),
            referenceSharpness: mean(sharps),
          }
        : {}),
    },
    items: judged,
    notes,
  };
}

const toBase64 = (vector: Float32Array): string =>
  Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString("base64");
const fromBase64 = (text: string): Float32Array =>
  new Float32Array(Uint8Array.from(Buffer.from(text, "base64")).buffer);

/** PSNR and SSIM to the clip that the item names, frame by frame at the item's size and rate. */
async function likeness(pixels: Pixels, reference: string, ctx: Context): Promise<Scores> {
  const other = await readPixels(reference, ctx, pixels);
  const { width, height } = pixels;
  return {
    psnr: perFrame(pixels, other, (a, b) => psnr(a, b)),
    ...(Math.min(width, height) < 11 ? {} : { ssim: perFrame(pixels, other, (a, b) => ssim(a, b, width, height)) }),
  };
}

/** A function from a file to its features, by the embedder that was asked for or the one there is. */
async function featuresOf(id: string | undefined, ctx: Context): Promise<(path: string) => Promise<Float32Array>> {
  const candidates = ctx.providers("embed");
  // Unasked, the embedder with the most features (a learned network rather than a thumbnail) that works without being told of weights.
  const [richest] = candidates
    .filter(({ traits }) => traits.dim !== null)
    .toSorted((a, b) => (b.traits.dim ?? 0) - (a.traits.dim ?? 0));
  const chosen = id === undefined ? richest : candidates.find((each) => each.id === id);
  if (!chosen) {
    throw new WaverError(
      "needs_unmet",
      id === undefined ? "nearest clips need an embedder, and no plugin has one" : `no embedder is called ${id}`,
      {
        hint: `embedders here: ${candidates.map((each) => each.id).join(", ") || "none"}`,
      },
    );
  }
  const embed = await ctx.use("embed", chosen.id);
  const { view } = chosen.traits;
  return async (path) => embed(await clipOf(path, view, ctx));
}

const imageId = (path: string): Digest =>
  Digest.parse(`sha256:${new Bun.CryptoHasher("sha256").update(path).digest("hex")}`);

/** A whole file as the embedder wants to see it; an image is a clip of one frame. */
async function clipOf(path: string, view: FrameView, ctx: Context): Promise<ClipFrames> {
  if (!isImage(path)) {
    const source = await ctx.media.probe(path, ctx.signal);
    return {
      clip: { id: source.id, source: source.id, start: 0, end: Math.max(source.duration, 1e-3) },
      source,
      frames: ctx.media.frames(path, view, { signal: ctx.signal }),
    };
  }
  const image = await ctx.media.image(path, view);
  const id = imageId(path);
  const { width, height } = image;
  const source: Source = {
    id,
    path,
    tag: basename(path),
    width,
    height,
    fps: 1,
    numFrames: 1,
    duration: 1,
    bitrate: 0,
    codec: "image",
  };
  async function* once(): AsyncGenerator<FrameBatch> {
    yield image;
  }
  return { clip: { id, source: id, start: 0, end: 1 }, source, frames: once() };
}
