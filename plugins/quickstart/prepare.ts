/** Lays out the quick start's own input: `videos/`, `captions.json` beside it, and `held-out/` that no training run sees. */
import { copyFile, link, mkdir, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { type Context, type FrameView, type Media, z } from "../index.ts";
import { firstFrames } from "./cut.ts";
import { type CaptionedShot, renderScenes } from "./render.ts";
import { SCENES } from "./scenes.ts";
import { HeldOut, Shot } from "./sources.ts";

/**
 * Seeds of held-out scenes lie far from those of training scenes, which count up from the run's own seed. Settings of the
 * refiner were chosen on the scenes from 300,000 on, so these are judged only (configs/train/LOG.md).
 */
const HELD_OUT_SEED = 400_000;

export interface Sources {
  readonly videos: string;
  readonly captions: string;
  readonly shots: Shot[];
  readonly heldOut: HeldOut[];
}

interface Wanted {
  readonly output: string;
  readonly seed: number;
  readonly scenes?: number | undefined;
  readonly real: readonly Shot[];
  readonly heldOut: number;
  readonly high: { readonly width: number; readonly height: number; readonly frames: number; readonly fps: number };
  readonly scale: number;
}

export async function prepareSources(wanted: Wanted, ctx: Context): Promise<Sources> {
  const { output, seed, real } = wanted;
  const videos = join(output, "videos");
  await mkdir(videos, { recursive: true });
  const names = SCENES.slice(0, wanted.scenes).map(({ name }) => name);
  const render = (folder: string, from: number, some: readonly string[]): Promise<CaptionedShot[]> =>
    renderScenes(folder, { seed: from, media: ctx.media, signal: ctx.signal, names: some });
  const rendered = await ctx.unit("scenes", z.array(Shot), async () => [...(await render(videos, seed, names))]);
  ctx.progress(1, 2, "scenes");
  const placed: Shot[] = [];
  for (const shot of real) placed.push({ ...shot, file: await place(shot.file, videos) });
  const shots = [...rendered, ...placed];
  const captions = join(output, "captions.json");
  const entries = shots.map(({ file, start, end, caption }) => ({
    file: `videos/${basename(file)}`,
    start,
    end,
    caption,
  }));
  await writeFile(captions, `${JSON.stringify(entries, null, 1)}\n`);
  const heldOut = await ctx.unit("held-out", z.array(HeldOut), async () => {
    const folder = join(output, "held-out");
    const whole = join(folder, "whole");
    const made = await render(whole, HELD_OUT_SEED + seed, names.slice(0, wanted.heldOut));
    const clips = await Promise.all(made.map((shot, i) => heldOutClip(shot, i + 1, folder, wanted, ctx)));
    await rm(whole, { recursive: true, force: true });
    return clips;
  });
  ctx.progress(2, 2, "scenes");
  return { videos, captions, shots, heldOut };
}

/** A link where the file system allows one: fetched videos stay where they were fetched to. */
async function place(file: string, folder: string): Promise<string> {
  const to = join(folder, basename(file));
  await link(file, to).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") await copyFile(file, to);
  });
  return to;
}

/** The same two seconds twice: as they should look, and reduced as the refiner is trained to undo. */
async function heldOutClip(
  shot: CaptionedShot,
  number: number,
  folder: string,
  { high, scale }: Wanted,
  ctx: Pick<Context, "media" | "signal">,
): Promise<HeldOut> {
  const id = `held-out-${number}`;
  const paths = { high: join(folder, `${number}-high.mp4`), low: join(folder, `${number}-low.mp4`) };
  const small = { width: high.width / scale, height: high.height / scale };
  await write(ctx.media, shot, paths.high, high, high, ctx.signal);
  await write(ctx.media, shot, paths.low, small, high, ctx.signal);
  return { id, caption: shot.caption, ...paths };
}

async function write(
  media: Media,
  shot: CaptionedShot,
  path: string,
  size: { width: number; height: number },
  { frames, fps }: { frames: number; fps: number },
  signal: AbortSignal,
): Promise<void> {
  const view: FrameView = {
    width: size.width,
    height: size.height,
    fit: "cover",
    rate: fps,
    format: "rgb24",
    batch: 16,
  };
  const stream = media.frames(shot.file, view, { start: shot.start, end: shot.end, signal });
  // Nearly lossless: the codec's own traces must not be what the refiner is measured on.
  await media.writeVideo(path, firstFrames(stream, frames), { fps, crf: 6, signal });
}
