/**
 * Finds plugins without importing any: folders beside the contract, and direct dependencies of `<home>/plugins` whose
 * manifest says that they are plugins. node_modules is never walked.
 */
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import type { ErrorCode } from "../../plugins/index.ts";
import type { Config } from "../config.ts";

/** A plugin that was found; nothing of it has run. */
export interface Found {
  readonly name: string;
  readonly version: string;
  readonly origin: "builtin" | "installed";
  readonly folder: string;
  readonly entry: string;
  /** The manifest's range of HOOK_API; built-ins state theirs in the declaration. */
  readonly hookApi: string | null;
  /** Named in the configuration: it must load. */
  readonly listed: boolean;
}

/** A rung of the ladder that a plugin did not pass. */
export interface Refused {
  readonly name: string;
  readonly version: string;
  readonly origin: "builtin" | "installed";
  readonly folder: string;
  readonly listed: boolean;
  readonly state: "skipped" | "failed" | "quarantined";
  readonly code: ErrorCode;
  readonly reason: string;
}

/** What package.json of an installed plugin must say; other fields are npm's. */
export const PluginManifest = z.object({
  name: z.string().min(1),
  version: z.string().min(1),
  keywords: z
    .array(z.string())
    .refine((words) => words.includes("waver-plugin"), { message: "has no keyword waver-plugin" }),
  waver: z.object({ plugin: z.string().min(1), hookApi: z.string().min(1) }),
});

/** The folder whose direct subfolders are the built-in plugins. */
export const BUILTIN_FOLDER = resolve(import.meta.dir, "../../plugins");

/** Where `waver plugins add` installs. */
export const installFolder = (home: string): string => join(home, "plugins");

/** All plugins of this host in a fixed order: built-ins by name, then installed ones by name. */
export async function discover(config: Config): Promise<{ found: Found[]; refused: Refused[] }> {
  const wanted = new Set(config.plugins.list);
  const found: Found[] = [];
  const refused: Refused[] = [];
  for (const name of await builtinNames()) {
    const folder = join(BUILTIN_FOLDER, name);
    found.push({
      name,
      version: "",
      origin: "builtin",
      folder,
      entry: join(folder, "index.ts"),
      hookApi: null,
      listed: wanted.has(name),
    });
  }
  for (const { name, folder, listed } of [...(await dependencies(config.home)), ...folders(config.plugins.list)]) {
    const read = await readManifest(folder);
    if ("reason" in read) {
      if (read.isPlugin || listed)
        refused.push({
          name,
          version: "",
          origin: "installed",
          folder,
          listed,
          state: "failed",
          code: "plugin_invalid",
          reason: read.reason,
        });
      continue;
    }
    const entry = resolve(folder, read.manifest.waver.plugin);
    found.push({
      name: read.manifest.name,
      version: read.manifest.version,
      origin: "installed",
      folder: await realpath(folder),
      entry,
      hookApi: read.manifest.waver.hookApi,
      listed: listed || wanted.has(read.manifest.name),
    });
  }
  return { found, refused };
}

async function builtinNames(): Promise<string[]> {
  const entries = await readdir(BUILTIN_FOLDER, { withFileTypes: true });
  const names: string[] = [];
  for (const entry of entries)
    if (entry.isDirectory() && (await isFile(join(BUILTIN_FOLDER, entry.name, "index.ts")))) names.push(entry.name);
  return names.sort();
}

interface Candidate {
  readonly name: string;
  readonly folder: string;
  readonly listed: boolean;
}

async function dependencies(home: string): Promise<Candidate[]> {
  const root = installFolder(home);
  const text = await readText(join(root, "package.json"));
  if (text === null) return [];
  const parsed = z.object({ dependencies: z.record(z.string(), z.string()).default({}) }).safeParse(parseJson(text));
  if (!parsed.success) return [];
  return Object.keys(parsed.data.dependencies)
    .sort()
    .map((name) => ({ name, folder: join(root, "node_modules", name), listed: false }));
}

/** A path in the list of plugins is a folder under development: it loads without being installed. */
const folders = (list: readonly string[]): Candidate[] =>
  list.filter(isPath).map((path) => ({ name: path, folder: resolve(path), listed: true }));

export const isPath = (name: string): boolean => isAbsolute(name) || name.startsWith("./") || name.startsWith("../");

type ManifestRead =
  | { readonly manifest: z.output<typeof PluginManifest> }
  | { readonly reason: string; readonly isPlugin: boolean };

/** Reads and checks package.json. A dependency that never claims to be a plugin is a library, not a failure. */
export async function readManifest(folder: string): Promise<ManifestRead> {
  const text = await readText(join(folder, "package.json"));
  if (text === null) return { reason: "its package.json cannot be read", isPlugin: true };
  const raw = parseJson(text);
  if (raw === undefined) return { reason: "its package.json is not JSON", isPlugin: true };
  const parsed = PluginManifest.safeParse(raw);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const claims =
      typeof raw === "object" &&
      raw !== null &&
      ("waver" in raw || String((raw as { keywords?: unknown }).keywords).includes("waver-plugin"));
    return {
      reason:
        `its package.json does not describe a plugin: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`.trim(),
      isPlugin: claims,
    };
  }
  const entry = resolve(folder, parsed.data.waver.plugin);
  if (!entry.startsWith(`${resolve(folder)}/`))
    return { reason: "waver.plugin points outside the package", isPlugin: true };
  if (!(await isFile(entry)))
    return { reason: `waver.plugin names a file that is not there: ${parsed.data.waver.plugin}`, isPlugin: true };
  return { manifest: parsed.data };
}

async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT" || (error as NodeJS.ErrnoException).code === "ENOTDIR")
      return null;
    throw error;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}
