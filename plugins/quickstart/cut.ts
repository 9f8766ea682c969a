/** Training clips of a set, and the short files that the network sees of them: what samples are compared with. */
import { mkdir, readdir } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { type AsyncBuffer, asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import sharp from "sharp";
import { z } from "zod";
import { type Context, type FrameBatch, type FrameView, WaverError } from "../index.ts";

/** The columns of a set that the quick start reads; a set may have more. */
const Row = z.object({ id: z.string(), path: z.string(), start: z.number(), end: z.number(), caption: z.string() });
export type Row = z.output<typeof Row>;

/** What the network sees of a clip. */
export interface Shape {
  readonly width: number;
  readonly height: number;
  readonly fps: number;
  readonly frames: number;
}

export const CutClip = z.object({ id: z.string(), caption: z.string(), video: z.string(), image: z.string() });
export type CutClip = z.output<typeof CutClip>;

export async function readSet(folder: string): Promise<Row[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".parquet")).sort();
  const rows: Row[] = [];
  for (const name of names) {
    const file: AsyncBuffer = await asyncBufferFromFile(join(folder, name));
    for (const row of await parquetReadObjects({ file })) rows.push(placed(Row.parse(row), folder));
  }
  if (rows.length === 0)
    throw new WaverError("invalid_input", `the set in ${folder} has no clips`, {
      hint: "look at the funnel in the report: which rule dropped them?",
    });
  return rows;
}

/** Relative paths of a set start at its folder. */
const placed = (row: Row, folder: string): Row =>
  isAbsolute(row.path) ? row : { ...row, path: join(folder, row.path) };

/** One clip as the network sees it: a short file, and its first frame as a picture. */
export async function cutClip(
  row: Row,
  shape: Shape,
  folder: string,
  name: string,
  ctx: Pick<Context, "media" | "signal">,
): Promise<CutClip> {
  await mkdir(folder, { recursive: true });
  const [video, image] = [join(folder, `${name}.mp4`), join(folder, `${name}.png`)];
  const { width, height, fps } = shape;
  const view: FrameView = { width, height, fit: "cover", rate: fps, format: "rgb24", batch: 16 };
  const frames = firstFrames(
    ctx.media.frames(row.path, view, { start: row.start, end: row.end, signal: ctx.signal }),
    shape.frames,
  );
  let first: FrameBatch | undefined;
  async function* watched(): AsyncGenerator<FrameBatch> {
    for await (const batch of frames) {
      first ??= { ...batch, data: batch.data.slice(0, width * height * 3) };
      yield batch;
    }
  }
  // Nearly lossless: what is compared with should not have lost more than what it is compared to.
  await ctx.media.writeVideo(video, watched(), { fps, crf: 10, signal: ctx.signal });
  if (!first) throw new WaverError("media_empty", `the clip ${row.id} has no frames`);
  await sharp(first.data, { raw: { width, height, channels: 3 } })
    .png()
    .toFile(image);
  return { id: row.id, caption: row.caption, video, image };
}

export async function* firstFrames(batches: AsyncIterable<FrameBatch>, count: number): AsyncGenerator<FrameBatch> {
  let left = count;
  for await (const batch of batches) {
    if (batch.count >= left) {
      yield {
        ...batch,
        data: batch.data.subarray(0, left * (batch.data.length / batch.count)),
        count: left,
        times: batch.times.slice(0, left),
      };
      return;
    }
    left -= batch.count;
    yield batch;
  }
}
