/** Clips across a process boundary: facts travel, pixels do not; the other side decodes for itself. */

import { z } from "zod";
import {
  type ClipFrames,
  type FrameBatch,
  type FrameView,
  type HookName,
  hooks,
  type Media,
} from "../../plugins/index.ts";
import { Clip, Source } from "../../plugins/types.ts";
import { heard, type Pulse } from "./pulse.ts";

const Facts = z.object({ clip: Clip, source: Source });

/** Hooks that take a clip and its frames. */
export const takesFrames = (hook: HookName): boolean => hooks[hook].input === hooks.score.input;

/**
 * What crosses for such an input. The local stream is read to its end and dropped: it may be one view of a shared
 * decode, whose other views would wait for it.
 */
export function toFacts(input: unknown, onError: (error: unknown) => void): unknown {
  const { clip, source, frames } = input as ClipFrames;
  drain(frames).catch(onError);
  return { clip, source };
}

/** The input with frames whose every batch is a sign of life of the one who reads them. */
export function withPulse<T>(input: T, pulse: Pulse): T {
  const given = input as ClipFrames;
  return { ...given, frames: heard(given.frames, pulse) } as T;
}

/** The input as the provider wants it, decoded here in the view its traits ask for. */
export function fromFacts(input: unknown, view: FrameView | null, media: Media, signal: AbortSignal): ClipFrames {
  const { clip, source } = Facts.parse(input);
  const frames =
    view === null ? nothing() : media.frames(source.path, view, { start: clip.start, end: clip.end, signal });
  return { clip, source, frames };
}

async function drain(frames: AsyncIterable<FrameBatch>): Promise<void> {
  for await (const _ of frames);
}

/** For providers that look at facts only. */
async function* nothing(): AsyncGenerator<FrameBatch> {
  yield* [];
}
