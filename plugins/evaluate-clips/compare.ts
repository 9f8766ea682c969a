/** Two clips frame by frame: how far the second is from the first, and where. Frames are read side by side and let go of. */
import { mkdir, rename, writeFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import { z } from "../index.ts";
import { chartPage } from "./chart.ts";
import { isImage, psnr, ssim } from "./pixels.ts";

export const Compared = z.object({
  width: z.int(),
  height: z.int(),
  numFrames: z.int(),
  /** Means over the frames: dB, 100 for equal frames; null where frames are smaller than the window. */
  psnr: z.number(),
  ssim: z.number().nullable(),
  /** The frame that differs most. */
  worst: z.object({ frame: z.int(), psnr: z.number() }),
  /** Frames that one clip has and the other has not. */
  unmatched: z.int(),
  /** A page with the curves, when it was asked for. */
  chart: z.string().optional(),
  frames: z.array(z.object({ frame: z.int(), psnr: z.number(), ssim: z.number().nullable() })),
});
export type Compared = z.output<typeof Compared>;

export interface CompareRequest {
  readonly a: string;
  readonly b: string;
  readonly resize: boolean;
  readonly output?: string | undefined;
}

interface Size {
  readonly width: number;
  readonly height: number;
}

/** Side of the window of structural similarity. */
const WINDOW = 11;

export async function compare(request: CompareRequest, ctx: Context): Promise<Compared> {
  const [size, other] = [await sizeOf(request.a, ctx), await sizeOf(request.b, ctx)];
  const { width, height } = size;
  if (!request.resize && (width !== other.width || height !== other.height))
    throw new WaverError(
      "shape_mismatch",
      `${basename(request.a)} is ${width} x ${height} and ${basename(request.b)} is ${other.width} x ${other.height}`,
      { hint: "--resize scales the second to the size of the first" },
    );
  const fits = Math.min(width, height) >= WINDOW;
  const [first, second] = [framesOf(request.a, size, ctx), framesOf(request.b, size, ctx)];
  const frames: Compared["frames"] = [];
  let unmatched = 0;
  for (;;) {
    const [x, y] = await Promise.all([first.next(), second.next()]);
    if (x.done === true && y.done === true) break;
    if (x.done === true || y.done === true) {
      unmatched++;
      continue;
    }
    frames.push({
      frame: frames.length,
      psnr: psnr(x.value, y.value),
      ssim: fits ? ssim(x.value, y.value, width, height) : null,
    });
    ctx.progress(frames.length, Math.min(size.numFrames, other.numFrames), "frames");
    await ctx.breathe();
  }
  if (frames.length === 0) throw new WaverError("media_empty", "the two have no frame in common");
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  const worst = frames.reduce((at, frame, i) => (frame.psnr < (frames[at]?.psnr ?? 0) ? i : at), 0);
  const compared = {
    ...{ width, height, numFrames: frames.length, unmatched, frames },
    psnr: mean(frames.map((frame) => frame.psnr)),
    ssim: fits ? mean(frames.map((frame) => frame.ssim ?? 0)) : null,
    worst: { frame: worst, psnr: frames[worst]?.psnr ?? 0 },
  };
  if (request.output === undefined) return compared;
  const page = chartPage(basename(request.a), basename(request.b), compared);
  await mkdir(dirname(request.output), { recursive: true });
  await writeFile(`${request.output}.tmp`, page);
  await rename(`${request.output}.tmp`, request.output);
  return { ...compared, chart: request.output };
}

async function sizeOf(path: string, ctx: Context): Promise<Size & { numFrames: number }> {
  if (!isImage(path)) return ctx.media.probe(path, ctx.signal);
  const { width, height } = await ctx.media.image(path);
  return { width, height, numFrames: 1 };
}

/** RGB frames, packed, in one size and the clip's own rate. */
async function* framesOf(path: string, { width, height }: Size, ctx: Context): AsyncGenerator<Uint8Array> {
  if (isImage(path)) {
    yield (await ctx.media.image(path, { width, height })).data;
    return;
  }
  const view = { width, height, fit: "stretch", rate: "native", format: "rgb24", batch: 4 } as const;
  const bytes = width * height * 3;
  for await (const { data, count } of ctx.media.frames(path, view, { signal: ctx.signal }))
    for (let i = 0; i < count; i++) yield data.slice(i * bytes, (i + 1) * bytes);
}
