/**
 * Measures in the codec's terms: what it can keep of a given image, and how far latents lie apart.
 * Video tensors are [1 3 F H W] in [-1, 1].
 */
import { z } from "zod";
import {
  fromBytes,
  inferenceMode,
  interpolate,
  openSafetensors,
  scope,
  stack,
  type Tensor,
} from "../../native/index.ts";
import type { Context, Pick } from "../define.ts";
import { WaverError } from "../errors.ts";
import { type Codec, type EvalSet, type Evaluation, Scores } from "../types.ts";
import { averages } from "./nearest.ts";
import { type Pixels, psnr, readPixels } from "./pixels.ts";

async function codecOf({ id, ...options }: Pick, ctx: Context): Promise<Codec> {
  return (await ctx.use("codec", id, options))({});
}

/** Pixels -> video [1 3 F H W]. */
function toVideo({ frames, width, height }: Pixels, device: string): Tensor {
  return scope(() =>
    stack(frames.map((frame) => fromBytes(frame, "uint8", [height, width, 3])))
      .to({ device })
      .permute([3, 0, 1, 2])
      .unsqueeze(0)
      .to("float32")
      .div(127.5)
      .sub(1),
  );
}

/** One frame of a video as 8-bit RGB, rounded as an encoder would. */
const toFrame = (video: Tensor, index: number): Uint8Array =>
  scope(() =>
    video.select(0, 0).select(1, index).permute([1, 2, 0]).add(1).mul(127.5).round().clamp(0, 255).to("uint8").bytes(),
  );

export async function judgeFirstFrames({ items }: EvalSet, pick: Pick, ctx: Context): Promise<Evaluation> {
  const given = items.filter((item) => item.image !== undefined);
  if (given.length === 0) throw new WaverError("invalid_input", "no item of the set has a given image");
  const codec = await codecOf(pick, ctx);
  const judged: Record<string, Scores> = {};
  for (const [i, { id, video, image }] of given.entries()) {
    judged[id] = await ctx.unit(`first-frame/${id}`, Scores, async () => {
      const clip = await readPixels(video, ctx);
      const still = await readPixels(image as string, ctx, clip);
      const kept = inferenceMode(() =>
        scope(() => {
          const frame = toVideo(still, ctx.device);
          return toFrame(codec.decode(codec.encode(frame)), 0);
        }),
      );
      const first = clip.frames[0] as Uint8Array;
      return { firstFramePsnr: psnr(first, kept), imagePsnr: psnr(first, still.frames[0] as Uint8Array) };
    });
    ctx.progress(i + 1, given.length, "first frames");
    await ctx.breathe();
  }
  return { summary: { ...averages(judged), numItems: given.length }, items: judged, notes: {} };
}

const Distances = z.object({ distanceEnlarged: z.number(), distanceRefined: z.number() });

export interface RefinedOptions {
  readonly codec: Pick;
  readonly scale: number;
  readonly given: Readonly<Record<string, string>>;
  readonly latents: Readonly<Record<string, string>>;
}

export async function judgeRefined({ items }: EvalSet, options: RefinedOptions, ctx: Context): Promise<Evaluation> {
  const known = items.filter((item) => item.reference !== undefined);
  if (known.length === 0)
    throw new WaverError("invalid_input", "no item of the set names its high-resolution original as reference");
  const codec = await codecOf(options.codec, ctx);
  const judged: Record<string, Scores> = {};
  for (const [i, { id, video, reference }] of known.entries()) {
    const found = await ctx.unit(`refined-latents/${id}`, Distances, async () => {
      const refined = wholeChunks(await readPixels(video, ctx), codec);
      const original = await readPixels(reference as string, ctx, refined);
      const low = options.given[id];
      const given = low === undefined ? undefined : await readPixels(low, ctx);
      const count = Math.min(refined.frames.length, original.frames.length, given?.frames.length ?? Infinity);
      return distances(codec, ctx.device, {
        refined: cut(refined, count),
        original: cut(original, count),
        given: given === undefined ? options.scale : cut(given, count),
        latents: options.latents[id],
      });
    });
    judged[id] = { ...found, refinedIsNearer: found.distanceRefined < found.distanceEnlarged ? 1 : 0 };
    ctx.progress(i + 1, known.length, "refined clips");
    await ctx.breathe();
  }
  const numNearer = Object.values(judged).filter(({ refinedIsNearer }) => refinedIsNearer === 1).length;
  return { summary: { ...averages(judged), numItems: known.length, numNearer }, items: judged, notes: {} };
}

const cut = (pixels: Pixels, count: number): Pixels => ({ ...pixels, frames: pixels.frames.slice(0, count) });

/** A codec takes 1 + k * stride frames; a last partial group is left out. */
function wholeChunks(pixels: Pixels, { latent }: Codec): Pixels {
  const stride = latent.stride[0];
  return cut(pixels, 1 + Math.floor((pixels.frames.length - 1) / stride) * stride);
}

/**
 * Root mean square distance of latents to the original's: of the refined clip, and of the clip that was given to the
 * refiner, enlarged (a number instead of a clip: the original reduced by it and enlarged).
 *
 * Without the refiner's own latents the refined clip is encoded again. Going through the decoder costs distance of its
 * own, so the enlarged clip then goes through it too: both are what a person would see.
 */
function distances(
  codec: Codec,
  device: string,
  {
    refined,
    original,
    given,
    latents,
  }: { refined: Pixels; original: Pixels; given: Pixels | number; latents: string | undefined },
): z.output<typeof Distances> {
  return inferenceMode(() =>
    scope(() => {
      const encode = (video: Tensor): Tensor => codec.encode(video).to("float32");
      const truth = toVideo(original, device);
      const target = encode(truth);
      const to = (found: Tensor): number => found.sub(target).square().mean().sqrt().item();
      const low = typeof given === "number" ? reduced(truth, given) : toVideo(given, device);
      const x = encode(resized(low, original.height, original.width));
      if (latents !== undefined)
        return { distanceEnlarged: to(x), distanceRefined: to(readLatents(latents, target.shape, device)) };
      return {
        distanceEnlarged: to(encode(eightBit(codec.decode(x)))),
        distanceRefined: to(encode(toVideo(refined, device))),
      };
    }),
  );
}

/** What is left of a decoded video in a file: 8 bits a channel. */
const eightBit = (video: Tensor): Tensor =>
  video.to("float32").add(1).mul(127.5).round().clamp(0, 255).div(127.5).sub(1);

function readLatents(path: string, shape: readonly number[], device: string): Tensor {
  using file = openSafetensors(path);
  const found = file.get("latents").to({ dtype: "float32", device, copy: true });
  if (found.shape.join() !== shape.join())
    throw new WaverError("shape_mismatch", `the latents of ${path} are [${found.shape}], the original's [${shape}]`);
  return found;
}

const reduced = (video: Tensor, scale: number): Tensor =>
  resized(video, Math.round(video.size(3) / scale), Math.round(video.size(4) / scale));

/** Bicubically, frame by frame, as the refiner enlarges. [1 3 F H W] -> [1 3 F height width] */
function resized(video: Tensor, height: number, width: number): Tensor {
  const frames = video.select(0, 0).permute([1, 0, 2, 3]);
  return interpolate(frames, { size: [height, width], mode: "bicubic", antialias: true })
    .clamp(-1, 1)
    .permute([1, 0, 2, 3])
    .unsqueeze(0);
}
