/**
 * Finds the caption of a clip: in the given file, else in a file beside the video that has its name and the ending
 * .txt (whole video), .json, .jsonl or .csv.
 *
 * Of the entries that speak of the source, the one whose time range covers most of the clip wins; equal covers go to
 * the narrower range, which says more about this clip.
 */
import { readFile, stat } from "node:fs/promises";
import { basename, dirname, extname, join, resolve } from "node:path";
import { WaverError } from "../errors.ts";
import type { Caption, Clip, Source } from "../types.ts";
import { type Entry, parseCaptions } from "./parse.ts";

export interface SidecarOptions {
  readonly captions?: string | undefined;
  readonly minOverlap: number;
}

/** A caption file is text a person wrote: more than this is something else. */
const MAX_BYTES = 256 * 1024 * 1024;

interface Read {
  readonly version: string;
  /** Entries by each name they may be asked by. */
  readonly byName: ReadonlyMap<string, readonly Entry[]>;
}

/** Caption files that were read, by path; read again when they change. */
export class Sidecars implements Disposable {
  readonly #files = new Map<string, Promise<Read | null>>();

  async captionOf(clip: Clip, source: Source, { captions, minOverlap }: SidecarOptions): Promise<Caption | null> {
    if (captions !== undefined) {
      const file = await this.#read(resolve(captions));
      if (file === null)
        throw new WaverError("not_found", `the caption file ${basename(captions)} does not exist`, {
          hint: "check the path",
        });
      const found = best(entriesFor(file, source, dirname(resolve(captions))), clip, source, minOverlap);
      if (found !== null) return found;
    }
    const stem = join(dirname(source.path), basename(source.path, extname(source.path)));
    for (const ending of [".json", ".jsonl", ".csv", ".txt"]) {
      const file = await this.#read(stem + ending, basename(source.path));
      if (file === null) continue;
      const found = best(entriesFor(file, source, dirname(source.path)), clip, source, minOverlap);
      if (found !== null) return found;
    }
    return null;
  }

  [Symbol.dispose](): void {
    this.#files.clear();
  }

  async #read(path: string, defaultFile?: string): Promise<Read | null> {
    const facts = await stat(path).catch(() => null);
    if (facts === null || !facts.isFile()) return null;
    if (facts.size > MAX_BYTES)
      throw new WaverError("too_large", `the caption file ${basename(path)} is larger than ${MAX_BYTES} bytes`);
    const version = `${facts.size}:${facts.mtimeMs}`;
    const known = await this.#files.get(path);
    if (known?.version === version) return known;
    const reading = readCaptions(path, version, defaultFile);
    this.#files.set(path, reading);
    reading.catch(() => this.#files.delete(path));
    return reading;
  }
}

async function readCaptions(path: string, version: string, defaultFile: string | undefined): Promise<Read> {
  const text = await readFile(path, "utf8");
  const entries = path.endsWith(".txt") ? plain(text, defaultFile) : parseCaptions(text, basename(path), defaultFile);
  const byName = new Map<string, Entry[]>();
  for (const entry of entries) {
    for (const name of new Set([entry.file, basename(entry.file), stemOf(entry.file)])) {
      const group = byName.get(name) ?? [];
      group.push(entry);
      byName.set(name, group);
    }
  }
  return { version, byName };
}

const plain = (text: string, file: string | undefined): Entry[] =>
  file === undefined || text.trim() === "" ? [] : [{ file, caption: text.trim() }];

const stemOf = (file: string): string => basename(file, extname(file));

/** Entries of this very path or digest, else of its file name, else of its name without the ending. */
function entriesFor(file: Read, source: Source, folder: string): readonly Entry[] {
  const name = basename(source.path);
  const named = file.byName.get(name) ?? [];
  const exact = [
    ...named.filter((entry) => resolve(folder, entry.file) === source.path),
    ...(file.byName.get(source.id) ?? []),
  ];
  if (exact.length > 0) return exact;
  // A path that ends like the entry's: "b/shot.mp4" speaks of "/a/b/shot.mp4", not of "/a/c/shot.mp4".
  const ending = named.filter((entry) => source.path.endsWith(`/${entry.file.replace(/^\.?\//, "")}`));
  if (ending.length > 0) return ending;
  return (file.byName.get(stemOf(name)) ?? []).filter((entry) => entry.file === stemOf(name));
}

function best(entries: readonly Entry[], clip: Clip, source: Source, minOverlap: number): Caption | null {
  let found: { entry: Entry; share: number; length: number } | null = null;
  for (const entry of entries) {
    const start = entry.start ?? 0;
    const end = entry.end ?? Math.max(source.duration, clip.end);
    const share = (Math.min(end, clip.end) - Math.max(start, clip.start)) / (clip.end - clip.start);
    if (share <= 0 || share < minOverlap || entry.caption.trim() === "") continue;
    const length = end - start;
    // A millisecond of difference is how a time was rounded, not what it says.
    if (found === null || share > found.share + 1e-3 || (share > found.share - 1e-3 && length < found.length))
      found = { entry, share, length };
  }
  if (found === null) return null;
  const actions = found.entry.actions?.filter((action) => action.end > clip.start && action.start < clip.end);
  return {
    text: found.entry.caption.trim(),
    by: "sidecar",
    ...(actions === undefined || actions.length === 0 ? {} : { actions }),
  };
}
