/** Content digests of plugin folders: what a cached declaration and the plugin set are keyed by. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { WaverError } from "../../plugins/index.ts";

/** A plugin is source code: a folder with more than this is a mistake (a data set beside the package, say). */
const MOST_FILES = 20_000;

/** Digest over relative paths and contents; dependencies and tests do not count. */
export async function folderDigest(folder: string): Promise<string> {
  const files = await filesOf(folder, "");
  const hash = new Bun.CryptoHasher("sha256");
  for (const file of files.sort()) {
    const content = await readFile(join(folder, file));
    hash.update(`${file}\0${content.byteLength}\0`);
    hash.update(content);
  }
  return `sha256:${hash.digest("hex")}`;
}

export const textDigest = (text: string): string =>
  `sha256:${new Bun.CryptoHasher("sha256").update(text).digest("hex")}`;

async function filesOf(folder: string, below: string, found: string[] = []): Promise<string[]> {
  for (const entry of await readdir(join(folder, below), { withFileTypes: true })) {
    if (entry.name === "node_modules" || entry.name === ".git" || entry.name.endsWith(".test.ts")) continue;
    const path = below === "" ? entry.name : `${below}/${entry.name}`;
    if (entry.isDirectory()) await filesOf(folder, path, found);
    else if (entry.isFile()) found.push(path);
    if (found.length > MOST_FILES)
      throw new WaverError("plugin_invalid", `its folder holds more than ${MOST_FILES} files`);
  }
  return found;
}
