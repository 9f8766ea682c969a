/**
 * What makes two requests the same work: the operation, its body after defaults, the content of every file it reads
 * and the plugins that do it. Equal identity means that an earlier result may be returned.
 */
import { createReadStream, type Stats } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { JobStore } from "./store.ts";

/** JSON with sorted keys: equal values have equal text. */
export const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, each: unknown) =>
    each !== null && typeof each === "object" && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
      : each,
  ) ?? "null";

export const digestOf = (...parts: readonly string[]): string => {
  const hasher = new Bun.CryptoHasher("sha256");
  // Length first, so that ("ab", "c") and ("a", "bc") differ.
  for (const part of parts) hasher.update(`${part.length}:`).update(part);
  return hasher.digest("hex");
};

export const bodyHash = (operation: string, body: unknown): string => digestOf("body", operation, canonical(body));

/**
 * A child below its parent: `parent` is the parent's work key, which a later equal parent shares. `code` is what does
 * the child's work: after a change of it an unfinished parent gets another child, not the result of the old code.
 */
export const childKey = (
  parent: string,
  { operation, body, code }: { operation: string; body: unknown; code: Readonly<Record<string, string>> },
): string => digestOf("child", parent, operation, canonical(body), canonical(code));

export const reuseKey = (work: {
  operation: string;
  body: unknown;
  content: readonly string[];
  plugins: Readonly<Record<string, string>>;
}): string => digestOf("work", work.operation, canonical(work.body), canonical(work.content), canonical(work.plugins));

/** Another one for another file in the same place, and for the same one after a change. */
export const versionOf = ({ size, mtimeMs, ctimeMs, ino }: Stats): string => `${size}:${mtimeMs}:${ctimeMs}:${ino}`;

/** Digest of what a path holds: a file's bytes, or the names and bytes of a folder's files. `missing` when there is nothing. */
export async function contentDigest(path: string, store: JobStore, signal: AbortSignal): Promise<string> {
  signal.throwIfAborted();
  let facts: Awaited<ReturnType<typeof stat>>;
  try {
    facts = await stat(path);
  } catch (error) {
    // The operation itself says what is missing, in its own words.
    if ((error as NodeJS.ErrnoException).code === "ENOENT" || (error as NodeJS.ErrnoException).code === "ENOTDIR")
      return "missing";
    throw error;
  }
  if (facts.isDirectory()) {
    const names = (await readdir(path)).sort();
    const parts: string[] = [];
    for (const name of names) parts.push(name, await contentDigest(join(path, name), store, signal));
    return digestOf("folder", ...parts);
  }
  if (!facts.isFile()) return "special";
  const stamp = versionOf(facts);
  const known = await store.fileDigest(path, stamp);
  if (known !== null) return known;
  const hasher = new Bun.CryptoHasher("sha256");
  // Chunks of 1 MiB: about a millisecond of hashing between two turns of the event loop.
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal }))
    hasher.update(chunk as Uint8Array);
  const digest = hasher.digest("hex");
  await store.rememberFileDigest(path, stamp, digest);
  return digest;
}
