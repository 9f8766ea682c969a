/** The report's own copies of clips and images: everything a page shows lies beside it, so that the folder can be moved or sent. */
import { copyFile, link, mkdir } from "node:fs/promises";
import { extname, isAbsolute, join, resolve } from "node:path";
import sharp from "sharp";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import type { FrameBatch, FrameView, Source } from "../types.ts";

/** Longest side of a preview cut from a longer file. */
const PREVIEW_SIDE = 384;
/** Frames a second of such a preview, at most: enough to judge motion, small to send. */
const PREVIEW_FPS = 15;
const IMAGES = new Set([".png", ".jpg", ".jpeg", ".webp", ".gif"]);

/** A clip or image as the page refers to it: paths relative to the page. */
export interface Shown {
  readonly kind: "video" | "image";
  readonly src: string;
  readonly poster: string | undefined;
  readonly width: number;
  readonly height: number;
  readonly seconds: number;
}

/** A file, or a part of one in seconds. */
export interface Span {
  readonly file: string;
  readonly start?: number | undefined;
  readonly end?: number | undefined;
}

export class MediaFolder {
  readonly #known = new Map<string, Shown>();

  /** @param page folder of the page; @param base folder that relative paths start from. */
  constructor(
    readonly page: string,
    readonly base: string,
    readonly ctx: Pick<Context, "media" | "signal">,
  ) {}

  /** Takes a file, or a span of one, into the folder; the same one is taken once. */
  async take(clip: Span): Promise<void> {
    const { path, key } = this.#name(clip);
    if (this.#known.has(key)) return;
    const name = `media/${String(this.#known.size + 1).padStart(3, "0")}`;
    this.#known.set(key, await this.#take(path, clip, name));
  }

  /** What was taken, by the words that it was taken by. */
  readonly shown = (clip: Span): Shown => {
    const shown = this.#known.get(this.#name(clip).key);
    if (!shown) throw new Error(`${clip.file} was not taken into the report`);
    return shown;
  };

  #name({ file, start, end }: Span): { path: string; key: string } {
    const path = isAbsolute(file) ? file : resolve(this.base, file);
    return { path, key: JSON.stringify([path, start, end]) };
  }

  async #take(path: string, { start, end }: Span, name: string): Promise<Shown> {
    this.ctx.signal.throwIfAborted();
    await mkdir(join(this.page, "media"), { recursive: true });
    const extension = extname(path).toLowerCase();
    if (IMAGES.has(extension)) {
      const { width = 0, height = 0 } = await sharp(path).metadata();
      return {
        kind: "image",
        src: await this.#copy(path, `${name}${extension}`),
        poster: undefined,
        width,
        height,
        seconds: 0,
      };
    }
    const source = await this.ctx.media.probe(path, this.ctx.signal);
    const size = fitted(source);
    const poster = await this.#poster(path, source, start ?? 0, size, `${name}.webp`);
    if (start === undefined && end === undefined) {
      return {
        kind: "video",
        src: await this.#copy(path, `${name}.mp4`),
        poster,
        width: source.width,
        height: source.height,
        seconds: source.duration,
      };
    }
    const fps = Math.min(PREVIEW_FPS, source.fps);
    const span = {
      ...(start === undefined ? {} : { start }),
      ...(end === undefined ? {} : { end }),
      signal: this.ctx.signal,
    };
    const frames = this.ctx.media.frames(path, view(size, fps, 16), span);
    await this.ctx.media.writeVideo(join(this.page, `${name}.mp4`), frames, { fps, signal: this.ctx.signal });
    return { kind: "video", src: `${name}.mp4`, poster, ...size, seconds: (end ?? source.duration) - (start ?? 0) };
  }

  /** A link where the file system allows one, else a copy: a report costs no second gigabyte. */
  async #copy(path: string, name: string): Promise<string> {
    const to = join(this.page, name);
    await link(path, to).catch(() => copyFile(path, to));
    return name;
  }

  async #poster(path: string, source: Source, start: number, size: Size, name: string): Promise<string> {
    let first: FrameBatch | undefined;
    const end = Math.min(source.duration, start + Math.max(2 / source.fps, 0.1));
    for await (const batch of this.ctx.media.frames(path, view(size, "native", 1), {
      start,
      end,
      signal: this.ctx.signal,
    }))
      first ??= batch;
    if (!first) throw new WaverError("media_empty", `no frame of ${path} could be shown`);
    const raw = { width: first.width, height: first.height, channels: 3 as const };
    await sharp(first.data.subarray(0, raw.width * raw.height * 3), { raw })
      .webp({ quality: 88 })
      .toFile(join(this.page, name));
    return name;
  }
}

interface Size {
  readonly width: number;
  readonly height: number;
}

/** The clip's own size, or what fits the preview; even, as yuv420p asks. */
function fitted({ width, height }: Size): Size {
  const scale = Math.min(1, PREVIEW_SIDE / Math.max(width, height));
  const even = (side: number): number => Math.max(2, Math.round((side * scale) / 2) * 2);
  return { width: even(width), height: even(height) };
}

const view = (size: Size, rate: number | "native", batch: number): FrameView => ({
  ...size,
  fit: "stretch",
  rate,
  format: "rgb24",
  batch,
});
