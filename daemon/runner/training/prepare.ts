/**
 * What stays the same of every clip in every step, computed once: frames are decoded, and the objective turns them into
 * latents and conditions. A batch of clips is one unit of work, so a killed job goes on at the batch where it was.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import {
  type Checkpoint,
  noGrad,
  openSafetensors,
  saveSafetensors,
  scope,
  stack,
  type Tensor,
  tensor,
} from "../../../native/index.ts";
import { type Context, type Objective, toWaverError, WaverError } from "../../../plugins/index.ts";
import type { Item, Kind } from "./loader.ts";
import type { TrainInput } from "./recipe.ts";
import type { SetRow } from "./set.ts";

/** Clips of one unit. */
const UNIT = 8;
/** A clip may lack this share of its frames at the end: the last one then stands still. */
const MISSING = 1 / 8;

/** Where a clip's tensors are: in `file` under `key.NAME`. */
export interface PreparedItem extends Item {
  readonly caption: string;
  readonly file: string;
  readonly key: string;
}

const Unit = z.object({
  file: z.string(),
  kept: z.array(z.object({ id: z.string(), caption: z.string(), key: z.string() })),
});

interface View {
  readonly kind: Kind;
  readonly width: number;
  readonly height: number;
  readonly frames: number;
  readonly fps: number;
}

export async function prepare(
  rows: readonly SetRow[],
  recipe: TrainInput,
  objective: Objective,
  ctx: Context,
): Promise<PreparedItem[]> {
  const folder = join(ctx.workDir, "prepared");
  await mkdir(folder, { recursive: true });
  const plan: [View, SetRow[]][] = [];
  for (const views of viewsOf(recipe)) plan.push(...(await sorted(rows, views, ctx)));
  const total = plan.reduce((sum, [, members]) => sum + members.length, 0);
  const items: PreparedItem[] = [];
  let done = 0;
  for (const [view, members] of plan) {
    const bucket = `${view.width}x${view.height}x${view.frames}`;
    for (let first = 0; first < members.length; first += UNIT) {
      const batch = members.slice(first, first + UNIT);
      const unit = await ctx.unit(`prepare ${view.kind} ${bucket} ${view.fps} ${first}`, Unit, async () => {
        const file = join(folder, `${view.kind}-${bucket}-${first}.safetensors`);
        return { file, kept: await prepareUnit(batch, view, file, objective, ctx) };
      });
      items.push(...unit.kept.map((each) => ({ ...each, file: unit.file, kind: view.kind, bucket })));
      done += batch.length;
      ctx.progress(done, total, "prepare");
    }
  }
  if (items.length === 0)
    throw new WaverError("invalid_input", "no clip of the set can be used", {
      hint: "the log names the reason of each: too short, or not readable",
    });
  return items;
}

/** Decodes and prepares a few clips of one view into one file; clips that cannot be used are named in the log. */
async function prepareUnit(
  rows: readonly SetRow[],
  view: View,
  file: string,
  objective: Objective,
  ctx: Context,
): Promise<z.output<typeof Unit>["kept"]> {
  const tensors: Record<string, Tensor> = {};
  const kept: z.output<typeof Unit>["kept"] = [];
  try {
    for (const [i, row] of rows.entries()) {
      await ctx.breathe();
      const pixels = await decode(row, view, ctx).catch((error: unknown) => {
        const { code, message } = toWaverError(error);
        if (code === "cancelled" || code === "internal") throw error;
        ctx.log("clip_left_out", { level: "warn", id: row.id, code, reason: message });
        return null;
      });
      if (pixels === null) continue;
      const key = String(i);
      const prepared = scope(() =>
        noGrad(() => {
          const video = toVideo(pixels, view);
          // A codec may keep its weights in bf16; what is trained on does not.
          const all = objective.prepare?.(video) ?? { video };
          return Object.fromEntries(
            Object.entries(all).map(([name, value]) => [`${key}.${name}`, value.squeeze(0).float().contiguous()]),
          );
        }),
      );
      Object.assign(tensors, prepared);
      kept.push({ id: row.id, caption: row.caption, key });
    }
    if (kept.length > 0) saveSafetensors(file, tensors);
  } finally {
    for (const each of Object.values(tensors)) each.dispose();
  }
  return kept;
}

/** Exactly the frames of the view, packed RGB. */
async function decode(row: SetRow, view: View, ctx: Context): Promise<Uint8Array> {
  const { width, height, frames, fps } = view;
  const frameBytes = width * height * 3;
  const pixels = new Uint8Array(frames * frameBytes);
  if (!isClip(row)) {
    pixels.set((await ctx.media.image(row.path, { width, height })).data.subarray(0, frameBytes));
    return pixels;
  }
  let count = 0;
  const how = {
    signal: ctx.signal,
    ...(row.start == null ? {} : { start: row.start }),
    ...(row.end == null ? {} : { end: row.end }),
  };
  for await (const batch of ctx.media.frames(
    row.path,
    { width, height, fit: "cover", rate: fps, format: "rgb24", batch: Math.min(frames, 32) },
    how,
  )) {
    const taken = Math.min(batch.count, frames - count);
    pixels.set(batch.data.subarray(0, taken * frameBytes), count * frameBytes);
    count += taken;
    if (count === frames) return pixels;
  }
  if (count < frames * (1 - MISSING))
    throw new WaverError("media_too_short", `${row.path}: ${count} frames at ${fps} a second, ${frames} are needed`);
  const last = pixels.slice((count - 1) * frameBytes, count * frameBytes);
  for (; count < frames; count++) pixels.set(last, count * frameBytes);
  return pixels;
}

/** Packed RGB -> [1 3 F H W] in [-1, 1] */
const toVideo = (pixels: Uint8Array, { frames, width, height }: View): Tensor =>
  tensor(pixels).reshape([1, frames, height, width, 3]).permute([0, 4, 1, 2, 3]).float().div(127.5).sub(1).contiguous();

const PICTURE = /\.(png|jpe?g|webp)$/i;
const isClip = (row: SetRow): boolean => !PICTURE.test(row.path);

/** Videos, and single frames of clips and pictures, each in the sizes of the recipe. */
function viewsOf({ video, image }: TrainInput): View[][] {
  return [
    ...(video === null
      ? []
      : [video.sizes.map((size) => ({ kind: "video" as const, ...size, frames: video.frames, fps: video.fps }))]),
    // A picture has no rate; the first frame of a clip comes at any.
    ...(image === null
      ? []
      : [image.sizes.map((size) => ({ kind: "image" as const, ...size, frames: 1, fps: video?.fps ?? 1 }))]),
  ];
}

/** Rows by the view whose aspect is nearest to theirs. Only a clip can be a video. */
async function sorted(rows: readonly SetRow[], views: readonly View[], ctx: Context): Promise<[View, SetRow[]][]> {
  const [first] = views as [View];
  const usable = rows.filter((row) => first.kind === "image" || isClip(row));
  if (views.length === 1) return usable.length === 0 ? [] : [[first, usable]];
  const aspects = new Map<string, number>();
  const groups = new Map<View, SetRow[]>();
  for (const row of usable) {
    const aspect = aspects.get(row.path) ?? (await aspectOf(row, ctx));
    aspects.set(row.path, aspect);
    const distance = (view: View): number => Math.abs(Math.log(view.width / view.height / aspect));
    const nearest = views.reduce((best, view) => (distance(view) < distance(best) ? view : best));
    groups.set(nearest, [...(groups.get(nearest) ?? []), row]);
  }
  return [...groups];
}

async function aspectOf(row: SetRow, { media, signal }: Context): Promise<number> {
  const { width, height } = isClip(row) ? await media.probe(row.path, signal) : await media.image(row.path);
  return width / height;
}

/** Prepared files, mapped into memory: only what a batch touches is read. */
export class PreparedFiles implements Disposable {
  readonly #open = new Map<string, Checkpoint>();

  /** The tensors of a batch by name, [B ...] each; they belong to the running scope. */
  batch(items: readonly PreparedItem[]): Record<string, Tensor> {
    const names = this.#file(items[0]!.file)
      .keys.filter((key) => key.startsWith(`${items[0]!.key}.`))
      .map((key) => key.slice(items[0]!.key.length + 1));
    return Object.fromEntries(
      names.map((name) => [name, stack(items.map((item) => this.#file(item.file).get(`${item.key}.${name}`)))]),
    );
  }

  #file(path: string): Checkpoint {
    const file = this.#open.get(path) ?? openSafetensors(path);
    this.#open.set(path, file);
    return file;
  }

  [Symbol.dispose](): void {
    for (const file of this.#open.values()) file.dispose();
    this.#open.clear();
  }
}
