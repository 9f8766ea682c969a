/** The files that a request names: videos in folders, files as they are, and what lies beside them. */
import { type Dirent, existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, extname, join, resolve } from "node:path";

/** Endings by which videos in a folder are recognised; a file that is named itself may have any. */
const VIDEO = new Set([
  ".mp4",
  ".m4v",
  ".mov",
  ".mkv",
  ".webm",
  ".avi",
  ".mpg",
  ".mpeg",
  ".ts",
  ".m2ts",
  ".flv",
  ".ogv",
  ".wmv",
  ".gif",
  ".ivf",
  ".y4m",
]);
/** Endings of caption files beside a video. */
const BESIDE = [".txt", ".json", ".jsonl", ".csv"];

/** Paths in order, each once. One that does not exist or may not be read stays in the list: probing it says so. */
export function videoFiles(sources: readonly string[]): string[] {
  const found = new Set<string>();
  for (const source of sources) {
    const path = resolve(source);
    if (isFolder(path)) for (const file of videosIn(path)) found.add(file);
    else found.add(path);
  }
  return [...found];
}

const isDenied = (error: unknown): boolean => ["EACCES", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "");

function isFolder(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  } catch (error) {
    if (isDenied(error)) return false;
    throw error;
  }
}

function entriesOf(folder: string): Dirent[] | null {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (isDenied(error)) return null;
    throw error;
  }
}

function videosIn(folder: string): string[] {
  const entries = entriesOf(folder);
  if (entries === null) return [folder];
  return entries
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.name.startsWith(".")) return [];
      if (entry.isDirectory()) return videosIn(path);
      return entry.isFile() && VIDEO.has(extname(entry.name).toLowerCase()) ? [path] : [];
    });
}

/** Existing files that the outcome depends on, for the reuse of earlier results. */
export function readsOf(sources: readonly string[], others: readonly (string | undefined)[]): string[] {
  const videos = videoFiles(sources);
  const beside = videos.flatMap((path) =>
    BESIDE.map((ending) => join(dirname(path), basename(path, extname(path)) + ending)),
  );
  const named = others.filter((path) => path !== undefined).map((path) => resolve(path));
  return [...new Set([...videos, ...named, ...beside])].filter((path) => existsSync(path) && statSync(path).isFile());
}
