/** What code a result came from, as digests: of a plugin with its settings, and of the host itself. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../config.ts";
import { textDigest } from "./digest.ts";

/** A registry, as far as it matters here. */
interface Loaded {
  readonly loaded: ReadonlyMap<string, { readonly digest: string }>;
}

/** Stands for the host among the names of plugins. */
export const HOST = "";

/** Digest of a plugin's code and settings, or of the host's code; null when there is no such plugin. */
export function codeOf(part: string, { loaded }: Loaded, { plugin, endpoint }: Config): string | null {
  if (part === HOST) return hostDigest();
  const found = loaded.get(part);
  if (found === undefined) return null;
  const settings = [plugin[part] ?? {}, endpoint?.url ?? null, endpoint?.model ?? null];
  return textDigest(JSON.stringify([found.digest, ...settings]));
}

/** What operations, runners and the engine's modules are made of, below the root of the tree. */
const FOLDERS = ["daemon", "native/nn", "native/optim", "native/parallel"];
const BESIDE = ["plugins", "native"];
const ROOT = join(import.meta.dir, "../..");

let host: string | null = null;

/** As it was when this process first asked: what it has imported does not change under it. A few milliseconds, once. */
function hostDigest(): string {
  host ??= textDigest(
    JSON.stringify([
      ...FOLDERS.flatMap((each) => sources(each, true)),
      ...BESIDE.flatMap((each) => sources(each, false)),
    ]),
  );
  return host;
}

function sources(folder: string, recursive: boolean): string[] {
  return readdirSync(join(ROOT, folder), { recursive, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.endsWith(".test.ts"))
    .sort()
    .flatMap((name) => [name, readFileSync(join(ROOT, folder, name), "utf8")]);
}
