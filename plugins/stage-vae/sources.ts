/** Training material of the VAE: a video's frames or a still picture, in memory. */
import { fromBytes, scope, type Tensor } from "../../native/index.ts";
import { type Context, WaverError } from "../index.ts";

/** Longest side kept, in pixels: a VAE of this size learns nothing from more. */
const LONGEST = 480;
/** Frames kept of one video: memory, not learning, sets this. */
const MOST_FRAMES = 240;
const STILL = /\.(png|jpe?g|webp)$/i;

/** uint8 [F 3 H W]; the caller disposes it. */
export async function readSource(path: string, ctx: Context): Promise<Tensor> {
  if (STILL.test(path)) {
    const image = await ctx.media.image(path);
    return planes(image.data, 1, image.height, image.width);
  }
  const { width, height, numFrames, fps } = await ctx.media.probe(path, ctx.signal);
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  const even = (n: number): number => Math.max(2, 2 * Math.round((n * scale) / 2));
  const view = {
    width: even(width),
    height: even(height),
    fit: "stretch",
    rate: Math.min(fps, 8),
    format: "rgb24",
    batch: 16,
  } as const;
  const parts: Uint8Array[] = [];
  let count = 0;
  for await (const batch of ctx.media.frames(path, view, { signal: ctx.signal })) {
    parts.push(batch.data.slice());
    count += batch.count;
    if (count >= MOST_FRAMES) break;
  }
  if (count === 0) throw new WaverError("media_too_short", `${path} has no frame to train on`, { data: { numFrames } });
  const data = new Uint8Array(await new Blob(parts as Uint8Array<ArrayBuffer>[]).arrayBuffer());
  return planes(data, count, view.height, view.width);
}

const planes = (data: Uint8Array, frames: number, height: number, width: number): Tensor =>
  scope(() => fromBytes(data, "uint8", [frames, height, width, 3]).permute([0, 3, 1, 2]).contiguous());
