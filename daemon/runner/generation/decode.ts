/**
 * Latents to frames, one chunk of the codec at a time, and what a killed decode goes on from: the frames so far, as raw
 * pixels, and what the codec remembers of them or, in tiles, has made towards them. Saved no more often than it is worth:
 * the memory of a large decode is gigabytes, and writing it must stay small beside making it again.
 */
import { closeSync, existsSync, fdatasyncSync, openSync, readSync, statSync, truncateSync, writeSync } from "node:fs";
import { rm } from "node:fs/promises";
import { cat, keep, noGrad, openSafetensors, saveSafetensors, scope, type Tensor } from "../../../native/index.ts";
import type { ChunkDecoder, Codec, FrameBatch } from "../../../plugins/index.ts";
import { assertFinite } from "./tensors.ts";

export interface Decoded extends Disposable {
  /** Frames as the encoder wants them, chunk by chunk. */
  readonly frames: AsyncIterable<FrameBatch>;
  /** Everything decoded so far, [1 F 3 H W] in [0, 1], when it was asked for. */
  save(path: string): void;
}

export interface DecodeOptions {
  readonly fps: number;
  /** Keeps float frames for `save`; such a decode begins anew when it was killed. */
  readonly keep: boolean;
  /** Beginning of the names of the files that a killed decode goes on from; absent: it begins anew. */
  readonly resume?: string | undefined;
  /** Whether to save, so many milliseconds after the last time, which took `cost`. */
  readonly isDue?: (since: number, cost: number) => boolean;
  breathe(done: number): Promise<void>;
  /** Around all computing, which it leaves as it is. */
  readonly computing?: <T>(work: () => T) => T;
}

/** Every two seconds, and no more than a tenth of the time. */
const isDue = (since: number, cost: number): boolean => since >= Math.max(2000, 10 * cost);

/** Latents [1 C T h w] -> packed RGB, one chunk of the codec at a time. */
export function decoded(codec: Codec, latents: Tensor, how: DecodeOptions): Decoded {
  const kept: Tensor[] = [];
  const { computing = (work) => work() } = how;
  async function* frames(): AsyncGenerator<FrameBatch> {
    using saved = how.resume === undefined || how.keep ? undefined : new Saved(how.resume, how.isDue ?? isDue);
    const before = codec.decoder === undefined ? undefined : saved?.read(latents.device);
    let done = 0;
    for (const batch of saved?.frames(before, how.fps) ?? []) {
      done += batch.count;
      yield batch;
      await how.breathe(done);
    }
    using chunks = opened(codec, latents, before);
    for (;;) {
      using chunk = computing(() => noGrad(() => chunks.next()));
      if (chunk === undefined) break;
      const [, , count, height, width] = chunk.shape as [number, number, number, number, number];
      if (count > 0) assertFinite(chunk, "decoding", ` from frame ${done} on`);
      const data = scope(() => {
        if (count === 0) return new Uint8Array();
        const video = chunk.to({ dtype: "float32", device: "cpu" }).div(2).add(0.5).clamp(0, 1).transpose(1, 2); // [1 F 3 H W]
        if (how.keep) kept.push(keep(video.contiguous()));
        return video.select(0, 0).permute([0, 2, 3, 1]).mul(255).round().to("uint8").toArray() as Uint8Array;
      });
      scope(() => {
        const memory = chunks.memory?.();
        if (memory !== undefined) saved?.add(data, { width, height }, memory);
      });
      if (count > 0) yield batchOf(data, { count, width, height }, done, how.fps);
      done += count;
      await how.breathe(done);
    }
  }
  return {
    frames: frames(),
    save: (path) => scope(() => saveSafetensors(path, { video: cat(kept, 1) })),
    [Symbol.dispose]() {
      for (const each of kept) each.dispose();
    },
  };
}

export const forgetDecode = async (stem: string): Promise<void> => {
  for (const path of [pixelsOf(stem), memoryOf(stem)]) await rm(path, { force: true });
};

const pixelsOf = (stem: string): string => `${stem}.rgb`;
const memoryOf = (stem: string): string => `${stem}.decode`;

interface Size {
  readonly width: number;
  readonly height: number;
}

const batchOf = (data: Uint8Array, at: Size & { count: number }, first: number, fps: number): FrameBatch => ({
  data,
  ...at,
  format: "rgb24",
  times: Array.from({ length: at.count }, (_, i) => (first + i) / fps),
});

/** A codec that cannot be left and gone on with is a decoder without memory. */
function opened(
  codec: Codec,
  latents: Tensor,
  before: Before | undefined,
): Pick<ChunkDecoder, "next" | typeof Symbol.dispose> & Partial<Pick<ChunkDecoder, "memory">> {
  if (codec.decoder !== undefined) {
    const decoder = noGrad(() => (codec.decoder as NonNullable<Codec["decoder"]>)(latents, before?.memory));
    for (const each of Object.values(before?.memory ?? {})) each.dispose();
    return decoder;
  }
  const chunks = codec.decodeChunks(latents)[Symbol.iterator]();
  return {
    next: () => {
      const { done, value } = chunks.next();
      return done === true ? undefined : (value as Tensor);
    },
    [Symbol.dispose]: () => void chunks.return?.(),
  };
}

/** What an earlier attempt left. */
interface Before extends Size {
  readonly numFrames: number;
  readonly memory: Readonly<Record<string, Tensor>>;
}

class Saved implements Disposable {
  readonly #stem: string;
  readonly #isDue: NonNullable<DecodeOptions["isDue"]>;
  #pixels: number | undefined;
  #numFrames = 0;
  #savedAt = performance.now();
  #cost = 0;

  constructor(stem: string, isDue: NonNullable<DecodeOptions["isDue"]>) {
    this.#stem = stem;
    this.#isDue = isDue;
  }

  read(device: string): Before | undefined {
    const [pixels, memory] = [pixelsOf(this.#stem), memoryOf(this.#stem)];
    if (!existsSync(memory) || !existsSync(pixels)) return undefined;
    using file = openSafetensors(memory);
    const [numFrames, width, height] = ["numFrames", "width", "height"].map((key) => Number(file.metadata[key])) as [
      number,
      number,
      number,
    ];
    const bytes = numFrames * width * height * 3;
    if (statSync(pixels).size < bytes) return undefined;
    // What came after the last memory is made again.
    truncateSync(pixels, bytes);
    this.#numFrames = numFrames;
    // copies: the file is replaced while its tensors are in use
    const copies = scope(() =>
      Object.fromEntries(file.keys.map((key) => [key, file.get(key).to({ device, copy: true })])),
    );
    for (const each of Object.values(copies)) keep(each);
    return { numFrames, width, height, memory: copies };
  }

  /** The frames of the earlier attempt, one at a time. */
  *frames(before: Before | undefined, fps: number): Generator<FrameBatch> {
    if (before === undefined) return;
    const { numFrames, width, height } = before;
    const fd = openSync(pixelsOf(this.#stem), "r");
    try {
      for (let i = 0; i < numFrames; i++) {
        const data = new Uint8Array(width * height * 3);
        readSync(fd, data, 0, data.length, i * data.length);
        yield batchOf(data, { count: 1, width, height }, i, fps);
      }
    } finally {
      closeSync(fd);
    }
  }

  /** Takes a chunk of pixels in, and the codec's memory when it is time. */
  add(data: Uint8Array, { width, height }: Size, memory: Before["memory"]): void {
    this.#pixels ??= openSync(pixelsOf(this.#stem), this.#numFrames === 0 ? "w" : "a");
    for (let n = 0; n < data.length; ) n += writeSync(this.#pixels, data, n, data.length - n);
    this.#numFrames += data.length / (width * height * 3);
    const startedAt = performance.now();
    if (!this.#isDue(startedAt - this.#savedAt, this.#cost)) return;
    fdatasyncSync(this.#pixels);
    const size = { numFrames: String(this.#numFrames), width: String(width), height: String(height) };
    saveSafetensors(memoryOf(this.#stem), memory, size);
    this.#savedAt = performance.now();
    this.#cost = this.#savedAt - startedAt;
  }

  [Symbol.dispose](): void {
    if (this.#pixels !== undefined) closeSync(this.#pixels);
  }
}
