/**
 * Published artefacts as files, for download and for the question whether an earlier result still exists. Reads the
 * layout of the default store (plugins/storage-local/store.ts); stores elsewhere are read by operations instead.
 */
import { lstat, realpath } from "node:fs/promises";
import { isAbsolute, join, sep } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import { Digest, Lineage } from "../../plugins/types.ts";
import type { Config } from "../config.ts";

const MANIFEST = ".manifest.json";

/** What a browser may show in place; everything else is offered as a file, so that no artefact runs as a page of ours. */
const SHOWN: Readonly<Record<string, string>> = {
  ".mp4": "video/mp4",
  ".png": "image/png",
  ".jpg": "image/jpeg",
  ".jpeg": "image/jpeg",
  ".webp": "image/webp",
};

/** What our own operations publish without a name. */
const NAMELESS: Readonly<Record<string, string>> = { video: ".mp4", image: ".png" };

export class Artifacts {
  readonly #root: string;

  constructor(config: Config) {
    const { root } = config.storage;
    this.#root = typeof root === "string" ? root : join(config.home, "store");
  }

  async lineage(digest: Digest): Promise<Lineage | null> {
    const file = Bun.file(join(this.#root, "lineage", `${hexOf(digest)}.json`));
    return (await file.exists()) ? Lineage.parse(await file.json()) : null;
  }

  /** Whether what an earlier result names is still there: a digest, or the path of a file or folder. */
  async exists(written: string): Promise<boolean> {
    const digest = Digest.safeParse(written);
    if (!digest.success) return isAbsolute(written) && (await kindOf(written)) !== null;
    return (await this.lineage(digest.data)) !== null && (await kindOf(this.#object(digest.data))) !== null;
  }

  async content(digest: Digest, inside: string | null, range: string | null): Promise<Response> {
    const lineage = await this.lineage(digest);
    const object = this.#object(digest);
    const kind = await kindOf(object);
    if (lineage === null || kind === null) throw new WaverError("not_found", `there is no artefact ${digest}`);
    if (kind === "file") {
      if (inside !== null) throw new WaverError("invalid_input", "query.path: this artefact is one file");
      return ranged(object, lineage.name ?? NAMELESS[lineage.kind] ?? "", range);
    }
    const path = await beneath(object, inside ?? MANIFEST);
    if (path === null)
      throw new WaverError("not_found", "the artefact has no such file", { hint: "its manifest lists what it has" });
    return ranged(path, inside ?? MANIFEST, range);
  }

  #object(digest: Digest): string {
    const hex = hexOf(digest);
    return join(this.#root, "objects", "sha256", hex.slice(0, 2), hex);
  }
}

const hexOf = (digest: Digest): string => digest.slice("sha256:".length);

async function kindOf(path: string): Promise<"file" | "folder" | null> {
  try {
    const facts = await lstat(path);
    return facts.isFile() ? "file" : facts.isDirectory() ? "folder" : null;
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return null;
    throw error;
  }
}

/** A regular file below `folder`, reached without links; null for everything else. */
async function beneath(folder: string, inside: string): Promise<string | null> {
  if (
    isAbsolute(inside) ||
    inside.includes("\0") ||
    inside.split(/[/\\]/).some((part) => part === "" || part === "." || part === "..")
  )
    return null;
  const path = join(folder, inside);
  if ((await kindOf(path)) !== "file") return null;
  const real = await realpath(path);
  return real === join(await realpath(folder), inside) && real.includes(sep) ? path : null;
}

function ranged(path: string, name: string, range: string | null): Response {
  const file = Bun.file(path);
  const size = file.size;
  const extension = /\.[a-z0-9]+$/i.exec(name)?.[0].toLowerCase() ?? "";
  const shown = SHOWN[extension];
  const headers: Record<string, string> = {
    "Accept-Ranges": "bytes",
    "Content-Type": shown ?? "application/octet-stream",
    "Cache-Control": "private, max-age=31536000, immutable",
    ...(shown === undefined ? { "Content-Disposition": "attachment" } : {}),
  };
  const wanted = range === null ? null : /^bytes=(\d*)-(\d*)$/.exec(range);
  // Several ranges, or another unit: the whole is a correct answer.
  if (wanted === null || (wanted[1] === "" && wanted[2] === "")) return new Response(file, { headers });
  const [, from = "", to = ""] = wanted;
  const start = from === "" ? Math.max(0, size - Number(to)) : Number(from);
  const end = from === "" || to === "" ? size - 1 : Math.min(size - 1, Number(to));
  if (start >= size || start > end)
    return new Response(null, { status: 416, headers: { "Content-Range": `bytes */${size}` } });
  return new Response(file.slice(start, end + 1), {
    status: 206,
    headers: { ...headers, "Content-Range": `bytes ${start}-${end}/${size}` },
  });
}
