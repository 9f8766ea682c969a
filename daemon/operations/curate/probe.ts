/** Facts of every file that a request names, each a unit: a file is read whole once, however often the job is started. */
import { stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { type Context, Source, WaverError } from "../../../plugins/index.ts";
import { passable } from "./failure.ts";
import { AT_ONCE, eachAtOnce } from "./pool.ts";
import { videoFiles } from "./sources.ts";

export interface Found {
  readonly path: string;
  readonly source: Source | null;
  readonly error?: WaverError;
}

export async function probeAll(
  request: { readonly sources: readonly string[]; readonly tag?: string | undefined },
  ctx: Context,
): Promise<Found[]> {
  const files = videoFiles(request.sources);
  if (files.length === 0)
    throw new WaverError("not_found", "the folders given hold no videos", {
      hint: "name a folder with video files, or a file itself",
    });
  let done = 0;
  return eachAtOnce(files, AT_ONCE, async (file) => {
    try {
      const source = await probe(file, ctx);
      if (source.numFrames < 2)
        throw new WaverError("media_too_short", `${basename(file)} has one frame, which makes no clip`, {
          hint: "use a video of at least two frames",
        });
      return { path: file, source: { ...source, tag: request.tag ?? basename(dirname(file)) } };
    } catch (cause) {
      const error = passable(cause);
      ctx.log("source_refused", { file: basename(file), code: error.code, message: error.message });
      return { path: file, source: null, error };
    } finally {
      ctx.progress(++done, files.length, "probe");
      await ctx.breathe();
    }
  });
}

async function probe(file: string, ctx: Context): Promise<Source> {
  const facts = await stat(file).catch(() => null);
  // What is not there has no version: the probe says what is wrong with it.
  if (facts === null) return ctx.media.probe(file, ctx.signal);
  return ctx.unit(`probe ${file} ${facts.size} ${facts.mtimeMs}`, Source, () => ctx.media.probe(file, ctx.signal));
}
