/** Folder for what is fetched once and can be fetched again: the cache that set-up uses too. */
import { mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";

export async function materialsCache(env: Readonly<Record<string, string | undefined>> = process.env): Promise<string> {
  const folder = join(
    env["WAVER_CACHE"] ?? join(env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "waver"),
    "materials",
  );
  await mkdir(folder, { recursive: true });
  return folder;
}
