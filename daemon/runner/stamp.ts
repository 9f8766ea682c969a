/** Which files the options of a provider name, and as of when: weights that were replaced are other weights. */
import { readdir, stat } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { versionOf } from "../jobs/identity.ts";

/** A component's folder has its files in it or one below; whatever lies deeper is not looked at. */
const DEPTH = 2;

/** Equal for equal options and files that were not touched in between. A path that is not there counts as such. */
export async function fileStamp(options: unknown): Promise<string> {
  const stamps = await Promise.all([...new Set(pathsIn(options))].map((path) => stampOf(path, DEPTH)));
  return stamps.join("\n");
}

function* pathsIn(value: unknown): Generator<string> {
  if (typeof value === "string") {
    if (isAbsolute(value)) yield value;
  } else if (value !== null && typeof value === "object") for (const each of Object.values(value)) yield* pathsIn(each);
}

async function stampOf(path: string, depth: number): Promise<string> {
  let facts: Awaited<ReturnType<typeof stat>>;
  try {
    facts = await stat(path);
  } catch {
    return `${path} -`;
  }
  if (!facts.isDirectory()) return `${path} ${versionOf(facts)}`;
  if (depth === 0) return path;
  const names = (await readdir(path).catch(() => [])).sort();
  return (await Promise.all(names.map((name) => stampOf(join(path, name), depth - 1)))).join("\n");
}
