/**
 * <root>/objects/sha256/ab/<hex>   an artefact: a file, or a folder with a manifest
 * <root>/lineage/<hex>.json        its record, written last: what has no record was never published
 * <root>/children/<hex>/<hex>      empty marks, input -> artefact, so that a walk downwards reads no records
 * <root>/.tmp.<pid>-<uuid>         work in progress; removed at open when its process is gone
 */
import { lstat, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { toWaverError, WaverError } from "../errors.ts";
import { Digest, Lineage, type Store } from "../types.ts";
import {
  copyHashed,
  hashFile,
  isAbandoned,
  makeFolder,
  moveInto,
  syncPath,
  temporaryName,
  writeWhole,
} from "./durable.ts";
import { type Entry, listFiles, MANIFEST, manifestText, parseManifest } from "./manifest.ts";

export async function openStore(folder: string): Promise<Store> {
  const root = resolve(folder);
  try {
    for (const each of ["objects/sha256", "lineage", "children"]) await makeFolder(join(root, each));
    for (const name of await readdir(root))
      if (isAbandoned(name)) await rm(join(root, name), { recursive: true, force: true });
  } catch (error) {
    throw toWaverError(error);
  }
  return new LocalStore(root);
}

const hexOf = (digest: Digest): string => Digest.parse(digest).slice("sha256:".length);
const digestOf = (hex: string): Digest => Digest.parse(`sha256:${hex}`);

class LocalStore implements Store {
  constructor(private readonly root: string) {}

  async publish(
    path: string,
    record: Omit<Lineage, "digest" | "bytes" | "createdAt">,
    how: { move?: boolean } = {},
  ): Promise<Digest> {
    const temporary = join(this.root, temporaryName());
    try {
      const { hex, bytes } = await this.#take(path, temporary);
      const digest = digestOf(hex);
      const target = this.#object(digest);
      if (await exists(target)) await rm(temporary, { recursive: true, force: true });
      else await this.#place(temporary, target);
      // The first record stays: what made the content first is its origin.
      if ((await this.lineage(digest)) === null)
        await this.#record(Lineage.parse({ ...record, digest, bytes, createdAt: new Date().toISOString() }));
      if (how.move) await rm(path, { recursive: true, force: true });
      return digest;
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw error instanceof WaverError ? error : toWaverError(error);
    }
  }

  /** Copies content into the temporary place; the digest is that of the copy. */
  async #take(path: string, temporary: string): Promise<{ hex: string; bytes: number }> {
    const facts = await lstat(path).catch(() => null);
    if (facts === null) throw new WaverError("not_found", `nothing to publish at ${path}`);
    if (facts.isFile()) {
      const { size, sha256 } = await copyHashed(path, temporary);
      return { hex: sha256, bytes: size };
    }
    if (!facts.isDirectory())
      throw new WaverError("invalid_input", `${path} is neither a file nor a folder, so it cannot be kept`);
    await mkdir(temporary);
    const entries: Entry[] = [];
    const folders = new Set<string>([temporary]);
    for (const file of await listFiles(path)) {
      const to = join(temporary, file);
      for (let folder = dirname(to); !folders.has(folder); folder = dirname(folder)) folders.add(folder);
      await mkdir(dirname(to), { recursive: true });
      entries.push({ path: file, ...(await copyHashed(join(path, file), to)) });
    }
    const text = manifestText(entries);
    await writeFile(join(temporary, MANIFEST), text, { mode: 0o444 });
    await syncPath(join(temporary, MANIFEST));
    for (const folder of folders) await syncPath(folder);
    return {
      hex: new Bun.CryptoHasher("sha256").update(text).digest("hex"),
      bytes: entries.reduce((sum, entry) => sum + entry.size, 0),
    };
  }

  async #place(temporary: string, target: string): Promise<void> {
    await makeFolder(dirname(target));
    try {
      await moveInto(temporary, target);
    } catch (error) {
      // Another process published the same content in between; its copy is as good.
      if (!(await exists(target))) throw error;
      await rm(temporary, { recursive: true, force: true });
    }
  }

  async #record(lineage: Lineage): Promise<void> {
    const hex = hexOf(lineage.digest);
    for (const input of new Set(lineage.inputs.map((each) => hexOf(each.digest)))) {
      const marks = join(this.root, "children", input);
      await makeFolder(marks);
      await writeFile(join(marks, hex), "");
      await syncPath(marks);
    }
    await writeWhole(this.#lineageFile(lineage.digest), `${JSON.stringify(lineage, null, 1)}\n`);
  }

  async has(digest: Digest): Promise<boolean> {
    return (await exists(this.#lineageFile(digest))) && (await exists(this.#object(digest)));
  }

  async path(digest: Digest): Promise<string> {
    if (!(await this.has(digest)))
      throw new WaverError("not_found", `the store has no ${digest}`, {
        hint: "check the digest, or make the artefact again",
      });
    return this.#object(digest);
  }

  async lineage(digest: Digest): Promise<Lineage | null> {
    try {
      return Lineage.parse(JSON.parse(await readFile(this.#lineageFile(digest), "utf8")));
    } catch (error) {
      if ((error as { code?: unknown }).code === "ENOENT") return null;
      throw new WaverError("internal", `the lineage record of ${digest} is damaged`, {
        cause: error,
        hint: "make the artefact again",
      });
    }
  }

  async children(digest: Digest): Promise<Digest[]> {
    const names = await readdir(join(this.root, "children", hexOf(digest))).catch(() => []);
    const found: Digest[] = [];
    // A mark without a record belongs to a publication that was cut off.
    for (const name of names.sort()) if (await exists(this.#lineageFile(digestOf(name)))) found.push(digestOf(name));
    return found;
  }

  async *list(kind?: string): AsyncIterable<Lineage> {
    for (const name of (await readdir(join(this.root, "lineage"))).sort()) {
      const hex = /^([0-9a-f]{64})\.json$/.exec(name)?.[1];
      if (hex === undefined) continue;
      const lineage = await this.lineage(digestOf(hex));
      if (lineage !== null && (kind === undefined || lineage.kind === kind)) yield lineage;
    }
  }

  async verify(digest: Digest): Promise<boolean> {
    const path = await this.path(digest);
    if ((await stat(path)).isFile()) return (await hashFile(path)).sha256 === hexOf(digest);
    const text = await readFile(join(path, MANIFEST), "utf8").catch(() => "");
    if (new Bun.CryptoHasher("sha256").update(text).digest("hex") !== hexOf(digest)) return false;
    const entries = parseManifest(text);
    if ((await listFiles(path)).length !== entries.length) return false;
    for (const entry of entries) {
      const found = await hashFile(join(path, entry.path)).catch(() => null);
      if (found?.sha256 !== entry.sha256 || found.size !== entry.size) return false;
    }
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing is held open.
  }

  #object(digest: Digest): string {
    const hex = hexOf(digest);
    return join(this.root, "objects", "sha256", hex.slice(0, 2), hex);
  }

  #lineageFile(digest: Digest): string {
    return join(this.root, "lineage", `${hexOf(digest)}.json`);
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return false;
    throw error;
  }
}
