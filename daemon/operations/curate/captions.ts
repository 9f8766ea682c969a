/**
 * Words for clips, from captioners in the order of preference. Those that need no frames are asked for every clip; from
 * the first that does on, only kept clips are captioned: a vision model is dear, and Waver filters before it captions.
 */
import {
  Caption,
  type Clip,
  type Context,
  type FrameBatch,
  type FrameView,
  type In,
  type Pick,
  type Source,
  toWaverError,
  type WaverError,
} from "../../../plugins/index.ts";
import { readClip } from "./measure.ts";

export interface Captioner {
  readonly id: string;
  readonly view: FrameView | null;
  readonly ask: (input: In<"caption">) => Promise<Caption | null>;
}

/** Opens the picked captioners. */
export async function openCaptioners(picks: readonly Pick[], ctx: Context): Promise<Captioner[]> {
  const known = ctx.providers("caption");
  return Promise.all(
    picks.map(async ({ id, ...options }) => {
      const ask = await ctx.use("caption", id, options);
      return { id, view: known.find((each) => each.id === id)?.traits.view ?? null, ask };
    }),
  );
}

/** Captioners up to the first that looks at frames, and the rest. */
export function split(captioners: readonly Captioner[]): { blind: readonly Captioner[]; seeing: readonly Captioner[] } {
  const first = captioners.findIndex(({ view }) => view !== null);
  return first < 0
    ? { blind: captioners, seeing: [] }
    : { blind: captioners.slice(0, first), seeing: captioners.slice(first) };
}

/** The first caption that anyone has, or null. One that fails is passed over with a word in the log, unless it cannot work at all. */
export async function captionOf(
  clip: Clip,
  source: Source,
  captioners: readonly Captioner[],
  ctx: Context,
): Promise<Caption | null> {
  for (const { id, view, ask } of captioners) {
    try {
      const [caption] =
        view === null
          ? [await ask({ clip, source, frames: none() })]
          : await readClip(clip, source, [{ id, view, run: ask }], ctx);
      if (caption) return Caption.parse(caption);
    } catch (cause) {
      const error = toWaverError(cause);
      if (isFatal(error)) throw error;
      ctx.log("captioner_failed", { captioner: id, clip: clip.id, code: error.code, message: error.message });
    }
  }
  return null;
}

/** Failures that will be the same for every clip: a person must act. */
const isFatal = ({ code }: WaverError): boolean =>
  ["cancelled", "needs_unmet", "invalid_input", "not_found", "no_provider", "disk_full"].includes(code);

async function* none(): AsyncGenerator<FrameBatch> {
  yield* [];
}
