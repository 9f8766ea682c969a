/**
 * Decoding and encoding for operations and providers. Everything that parses a media file runs in a child process
 * (see child.ts); this process only moves bytes.
 */
import { resolve } from "node:path";
import type { Media } from "../../plugins/define.ts";
import type { Source } from "../../plugins/types.ts";
import { type Opened, openViews } from "./decode.ts";
import { readComment, writeVideoFile } from "./encode.ts";
import { findFfmpeg, limitsOf, type MediaConfig } from "./ffmpeg.ts";
import { readImage } from "./image.ts";
import { probeFile } from "./probe.ts";
import { fileFacts } from "./verdict.ts";

export interface MediaOptions {
  readonly config?: MediaConfig;
  /** Ends every child when it fires; calls may bring a narrower one. */
  readonly signal?: AbortSignal;
}

/** Probes kept: a probe reads the whole file, and curation asks for the same file once a clip. */
const KEPT_PROBES = 1024;

export function createMedia(options: MediaOptions = {}): Media {
  const config = options.config ?? {};
  const limits = limitsOf(config);
  let found: string | undefined;
  // Looked up at first use: a command that touches no media needs no ffmpeg.
  const program = (): string => (found ??= findFfmpeg(config));
  const either = (signal?: AbortSignal): AbortSignal | undefined =>
    signal === undefined
      ? options.signal
      : options.signal === undefined
        ? signal
        : AbortSignal.any([signal, options.signal]);
  const probes = new Map<string, Promise<Source>>();

  async function probe(path: string, signal?: AbortSignal): Promise<Source> {
    const key = `${resolve(path)}\n${(await fileFacts(path)).version}`;
    const known = probes.get(key);
    if (known !== undefined) return known;
    if (probes.size >= KEPT_PROBES) probes.delete(probes.keys().next().value as string);
    const work = probeFile(program(), path, limits, either(signal));
    probes.set(key, work);
    // A failure is not kept: it may be this caller's cancel.
    work.catch(() => probes.delete(key));
    return work;
  }

  const opened = (path: string, signal?: AbortSignal): Opened => ({
    program: program(),
    path,
    limits,
    fps: async () => (await probe(path, signal)).fps,
  });

  return {
    probe,
    frames(path, view, how = {}) {
      const signal = either(how.signal);
      return openViews(opened(path, signal), [view], { ...how, signal })[0] as ReturnType<Media["frames"]>;
    },
    fanOut(path, views, how = {}) {
      const signal = either(how.signal);
      const names = Object.keys(views);
      if (names.length === 0) return {};
      const streams = openViews(opened(path, signal), Object.values(views), { ...how, signal });
      return Object.fromEntries(names.map((name, index) => [name, streams[index] as ReturnType<Media["frames"]>]));
    },
    image: (path, size) => readImage(path, size, limits),
    writeVideo: (path, frames, how) =>
      writeVideoFile(program(), path, frames, { ...how, signal: either(how.signal) }, limits),
    readMetadata: (path) => readComment(program(), path, limits, options.signal),
  };
}
