/**
 * Frames of a span, in one or several views of one decode. Each view is its own output pipe of one ffmpeg; a pipe that
 * is not read holds ffmpeg back, so memory stays at one batch a view.
 *
 * Times are on the container's clock. A view's frame n shows the source at start + n / rate: the `fps` filter picks
 * the nearest source frame, and with the native rate each exactly once.
 */
import { basename } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import type { FrameBatch, FrameView } from "../../plugins/types.ts";
import { type Child, descriptor, spawnChild } from "./child.ts";
import { input, type Limits, quiet, rational, VIDEO_ONLY } from "./ffmpeg.ts";
import { readFailure, throwIfCancelled } from "./verdict.ts";

export interface Span {
  readonly start?: number | undefined;
  readonly end?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Opened {
  readonly program: string;
  readonly path: string;
  readonly limits: Limits;
  /** The file's own rate, looked up when a view asks for `native` or a seek needs it. */
  fps(): Promise<number>;
}

/**
 * A seek lands a quarter of a frame early: time stamps are rounded to the container's ticks, so a seek to the exact
 * time of a frame may drop it, and half a frame would make the `fps` filter's rounding a coin toss.
 */
const EARLY = 0.25;

/** Frames expected in a span; the small slack keeps 1.2 s x 25 fps = 30.000000000000004 at 30. */
const countOf = (span: number, rate: number): number => Math.max(1, Math.ceil(span * rate - 1e-3));

export const frameBytes = (view: Pick<FrameView, "width" | "height" | "format">): number =>
  view.width * view.height * (view.format === "rgb24" ? 3 : 1);

export function openViews(file: Opened, views: readonly FrameView[], span: Span): AsyncIterable<FrameBatch>[] {
  for (const view of views) check(view, file.limits);
  const start = span.start ?? 0;
  if (span.end !== undefined && span.end <= start)
    throw new WaverError("invalid_input", `a span must end after it starts, not go from ${start} to ${span.end} s`);
  let opened: Promise<Decoder> | undefined;
  const decoder = (): Promise<Decoder> => (opened ??= Decoder.open(file, views, { ...span, start }));
  return views.map((_, index) =>
    once(
      async function* () {
        yield* (await decoder()).view(index);
      },
      async () => (await decoder()).skip(index),
    ),
  );
}

function check(view: FrameView, limits: Limits): void {
  if (view.width * view.height > limits.maxPixels)
    throw new WaverError("too_large", `a view of ${view.width} x ${view.height} has more pixels than is allowed`);
}

/**
 * An iterable that says so when it is read twice, where a stream would silently be empty. `skip` is called when the
 * reader leaves before its first frame: a generator that never ran has no `finally` to tell the others.
 */
function once<T>(make: () => AsyncGenerator<T>, skip: () => Promise<void>): AsyncIterable<T> {
  let read = false;
  return {
    [Symbol.asyncIterator]() {
      if (read) throw new WaverError("internal", "a stream of frames can be read once");
      read = true;
      let begun = false;
      const frames = make();
      return {
        next() {
          begun = true;
          return frames.next();
        },
        async return() {
          if (begun) return frames.return(undefined);
          begun = true;
          await skip();
          return { done: true, value: undefined };
        },
      };
    },
  };
}

class Decoder {
  #open: number;
  #produced = 0;
  /** Views whose reader waits for bytes now; a stall counts only while all that are left wait. */
  #waiting = 0;
  #stall: ReturnType<typeof setTimeout> | undefined;

  private constructor(
    private readonly file: Opened,
    private readonly child: Child,
    private readonly views: readonly FrameView[],
    private readonly rates: readonly number[],
    private readonly span: Span & { readonly start: number },
  ) {
    this.#open = views.length;
  }

  static async open(
    file: Opened,
    views: readonly FrameView[],
    span: Span & { readonly start: number },
  ): Promise<Decoder> {
    const fps = await file.fps();
    const rates = views.map((view) => (view.rate === "native" ? fps : view.rate));
    const seek = Math.max(0, span.start - EARLY / fps);
    const length = span.end === undefined ? undefined : span.end - span.start;
    const outputs = views.flatMap((view, index) => [
      ...VIDEO_ONLY,
      "-vf",
      filter(view, rates[index] as number),
      ...(length === undefined ? [] : ["-frames:v", String(countOf(length, rates[index] as number))]),
      "-f",
      "rawvideo",
      "-pix_fmt",
      view.format,
      `pipe:${descriptor(index)}`,
    ]);
    // One second more than asked, so that the last frame has its successor and the filter does not end early.
    const args = [
      ...quiet("error"),
      ...input(file.path, file.limits, { start: seek, ...(length === undefined ? {} : { duration: length + 1 }) }),
      ...outputs,
    ];
    // 4K decodes at about 10 frames a second and core, so ten seconds of CPU for a second of video is generous.
    const cpuSeconds = length === undefined ? 4 * 3600 : 60 + 10 * (length + 1);
    const child = spawnChild(file.program, args, {
      limits: file.limits,
      cpuSeconds,
      pipes: views.length,
      signal: span.signal,
    });
    return new Decoder(file, child, views, rates, span);
  }

  async *view(index: number): AsyncGenerator<FrameBatch> {
    const view = this.views[index] as FrameView;
    const rate = this.rates[index] as number;
    let number = 0;
    let complete = false;
    try {
      for await (const { data, count } of batches(() => this.#read(index), frameBytes(view), view.batch)) {
        const first = number;
        number += count;
        this.#produced += count;
        const times = Array.from({ length: count }, (_, i) => this.span.start + (first + i) / rate);
        yield { data, count, width: view.width, height: view.height, format: view.format, times };
      }
      complete = true;
    } finally {
      this.#leave(complete ? null : index);
    }
    const ended = await this.child.finished();
    throwIfCancelled(this.span.signal);
    if (number > 0 && (ended.code === 0 || this.#open > 0)) return;
    if (ended.code === 0 && this.#produced === 0 && this.span.start > 0) {
      throw new WaverError(
        "media_too_short",
        `${basename(this.file.path)} has no frame at ${this.span.start.toFixed(2)} s`,
        { hint: "the span begins after the end of the video" },
      );
    }
    throw readFailure(this.file.path, ended, this.span.signal);
  }

  /** A view that nobody reads. */
  skip(index: number): void {
    this.#leave(index);
  }

  /** One view less is read. What is left in its pipe is thrown away, so that the other views are not held back. */
  #leave(unread: number | null): void {
    this.#open--;
    if (unread === null) return;
    if (this.#open === 0) this.child.kill("done");
    void this.child.drain(unread);
  }

  async #read(index: number): Promise<Uint8Array | null> {
    this.#waiting++;
    if (this.#waiting === this.#open)
      this.#stall = setTimeout(() => this.child.kill("stall"), this.file.limits.stallSeconds * 1000);
    try {
      return await this.child.read(index);
    } finally {
      this.#waiting--;
      clearTimeout(this.#stall);
    }
  }
}

function filter(view: FrameView, rate: number): string {
  const { width: w, height: h } = view;
  // start_time 0 keeps the grid on the seek point; bicubic widens its kernel when it shrinks, so it does not alias.
  // Colours come as OpenCV and PyAV read them, which the reference values of shot detection rest on (golden scene_detect_video):
  // swscale's shortcuts darken 4:2:0 by 1.0 to 1.4 of 255 levels. accurate_rnd+full_chroma_int would not.
  const grid = `fps=fps=${rational(rate)}:start_time=0`;
  return view.fit === "stretch"
    ? `${grid},scale=${w}:${h}:flags=bicubic`
    : `${grid},scale=${w}:${h}:force_original_aspect_ratio=increase:flags=bicubic,crop=${w}:${h}`;
}

/** Cuts a byte stream into batches of whole frames. Every batch has its own memory: the reader may keep it. */
async function* batches(
  read: () => Promise<Uint8Array | null>,
  size: number,
  batch: number,
): AsyncGenerator<{ data: Uint8Array; count: number }> {
  let data = new Uint8Array(size * batch);
  let filled = 0;
  for (let chunk = await read(); chunk !== null; chunk = await read()) {
    for (let at = 0; at < chunk.length; ) {
      const part = chunk.subarray(at, at + data.length - filled);
      data.set(part, filled);
      filled += part.length;
      at += part.length;
      if (filled === data.length) {
        yield { data, count: batch };
        data = new Uint8Array(size * batch);
        filled = 0;
      }
    }
  }
  const count = Math.floor(filled / size);
  if (count > 0) yield { data: data.subarray(0, count * size), count };
}
