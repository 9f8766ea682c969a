/** The content address of a model folder: the same that the local store gives it when it is published. */
import { createReadStream } from "node:fs";
import { lstat, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Context, Digest } from "../../plugins/index.ts";

/** What the store leaves in an artefact's folder: path, size and SHA-256 of every file. Its text's digest is the artefact's. */
const MANIFEST = ".manifest.json";
const sha256 = (text: string): Digest =>
  Digest.parse(`sha256:${new Bun.CryptoHasher("sha256").update(text).digest("hex")}`);

export async function folderContentDigest(folder: string, ctx: Context): Promise<Digest> {
  const manifest = await readFile(join(folder, MANIFEST), "utf8").catch(() => null);
  if (manifest !== null) return sha256(manifest);
  const files: { path: string; size: number; sha256: string }[] = [];
  for (const path of (await filesBelow(folder, "")).sort()) {
    const { size } = await lstat(join(folder, path));
    files.push({ path, size, sha256: (await fileDigest(join(folder, path), ctx)).slice("sha256:".length) });
  }
  return sha256(`${JSON.stringify({ version: 1, files }, null, 1)}\n`);
}

export async function fileDigest(path: string, ctx: Context): Promise<Digest> {
  const hasher = new Bun.CryptoHasher("sha256");
  // 1 MiB: about a millisecond of hashing between two turns of the event loop
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal: ctx.signal }))
    hasher.update(chunk as Uint8Array);
  return Digest.parse(`sha256:${hasher.digest("hex")}`);
}

async function filesBelow(folder: string, below: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(join(folder, below), { withFileTypes: true })) {
    const path = below === "" ? entry.name : `${below}/${entry.name}`;
    if (entry.isDirectory()) found.push(...(await filesBelow(folder, path)));
    else found.push(path);
  }
  return found;
}
