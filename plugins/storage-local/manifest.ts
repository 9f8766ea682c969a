/**
 * What is in a folder artefact: path, size and SHA-256 of every file. The digest of the folder is the digest of this
 * text, so equal trees have equal digests wherever they lie.
 */
import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WaverError } from "../errors.ts";

/** Lies in the artefact's folder; no part of its content. */
export const MANIFEST = ".manifest.json";

const Entry = z.strictObject({
  path: z.string(),
  size: z.int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
export type Entry = z.output<typeof Entry>;
const Manifest = z.strictObject({ version: z.literal(1), files: z.array(Entry) });

export function manifestText(files: readonly Entry[]): string {
  const sorted = [...files]
    .sort((a, b) => (a.path < b.path ? -1 : 1))
    .map(({ path, size, sha256 }) => ({ path, size, sha256 }));
  return `${JSON.stringify({ version: 1, files: sorted }, null, 1)}\n`;
}

export function parseManifest(text: string): readonly Entry[] {
  return Manifest.parse(JSON.parse(text)).files;
}

/** Paths of the regular files below a folder, with `/`, sorted. Links and devices are refused: they are no content. */
export async function listFiles(folder: string): Promise<string[]> {
  const found: string[] = [];
  const walk = async (below: string): Promise<void> => {
    for (const name of await readdir(join(folder, below))) {
      const path = below === "" ? name : `${below}/${name}`;
      if (path === MANIFEST) continue;
      const facts = await lstat(join(folder, path));
      if (facts.isDirectory()) await walk(path);
      else if (facts.isFile()) found.push(path);
      else
        throw new WaverError("invalid_input", `${path} is neither a file nor a folder, so it cannot be kept`, {
          hint: "replace links by what they point to",
        });
    }
  };
  await walk("");
  return found.sort();
}
