/**
 * The ladder every plugin climbs: manifest -> API range -> declaration -> check -> duplicates. Each rung has a typed
 * outcome with a one-sentence reason. Built-ins are imported here; third parties only ever in a child process.
 */
import { mkdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { checkApi, checkPlugin, outcomeOf } from "../../plugins/check.ts";
import { ERROR_CODES, type ErrorCode, type Plugin, WaverError } from "../../plugins/index.ts";
import type { Config } from "../config.ts";
import { Declaration, declare } from "./declaration.ts";
import { folderDigest } from "./digest.ts";
import { discover, type Found, isPath, type Refused } from "./discover.ts";
import { scrubbedEnv } from "./host.ts";
import type { LoadedPlugin } from "./registry.ts";

/** Importing a declaration is meant to take milliseconds; a plugin that needs longer hangs. */
const IMPORT_MS = 10_000;
/** A failed extraction is believed for this long before it is tried again. */
const FAILED_MS = 10 * 60_000;

export interface Climbed {
  readonly loaded: LoadedPlugin;
  readonly declaration: Declaration;
  readonly listed: boolean;
}

export interface LadderOptions {
  readonly config: Config;
  readonly signal: AbortSignal;
  readonly quarantined?: ReadonlyMap<string, string>;
  readonly importMs?: number;
  /** Operations of the host itself. */
  readonly core: ReadonlySet<string>;
}

/** All plugins that reached the top, in order, and the rung at which each other one stopped. */
export async function loadPlugins(options: LadderOptions): Promise<{ climbed: Climbed[]; refused: Refused[] }> {
  const { config, signal } = options;
  const { found, refused } = await discover(config);
  const results = await Promise.all(found.map((each) => climb(each, options)));
  signal.throwIfAborted();
  const outcome = { climbed: [] as Climbed[], refused };
  for (const result of results) ("loaded" in result ? outcome.climbed : outcome.refused).push(result as never);
  const unique = withoutDuplicates(outcome.climbed, options.core);
  outcome.refused.push(...unique.refused);
  for (const name of config.plugins.list)
    if (!isPath(name) && !found.some((each) => each.name === name) && !refused.some((each) => each.name === name))
      throw new WaverError("plugin_failed", `the plugin ${name} is named in the configuration but is not installed`, {
        hint: `install it: waver plugins add ${name}`,
      });
  const loud = outcome.refused.find((each) => each.listed && each.state === "failed");
  if (loud !== undefined)
    throw new WaverError(
      loud.code,
      `the plugin ${loud.name} is named in the configuration but cannot be loaded: ${loud.reason}`,
    );
  return { climbed: unique.kept, refused: outcome.refused };
}

async function climb(found: Found, options: LadderOptions): Promise<Climbed | Refused> {
  const { config, signal } = options;
  const { listed } = found;
  const refuse = (state: Refused["state"], code: ErrorCode, reason: string): Refused => ({
    name: found.name,
    version: found.version,
    origin: found.origin,
    folder: found.folder,
    listed: found.listed,
    state,
    code,
    reason,
  });
  if (config.plugins.disable.includes(found.name))
    return refuse("skipped", "plugin_failed", "it is disabled in the configuration");
  if (!config.plugins.discover && !found.listed)
    return refuse("skipped", "plugin_failed", "discovery is off and the configuration does not name it");
  const crash = options.quarantined?.get(found.name);
  if (crash !== undefined) return refuse("quarantined", "plugin_failed", crash);
  try {
    if (found.hookApi !== null) checkApi(found.hookApi);
    const digest = await folderDigest(found.folder);
    if (found.origin === "installed") {
      const declaration = await extracted(found, digest, options);
      if (declaration.name !== found.name)
        return refuse(
          "failed",
          "plugin_invalid",
          `its package is named ${found.name} but its declaration ${declaration.name}`,
        );
      for (const [name, operation] of Object.entries(declaration.operations))
        if (operation.runs === "daemon")
          return refuse(
            "failed",
            "plugin_invalid",
            `its operation ${name} wants to run in the daemon, which imports no third-party code`,
          );
      return { loaded: { ...entryOf(found, digest), version: found.version, plugin: null }, declaration, listed };
    }
    const plugin = await imported(found.entry, options);
    if (plugin.name !== found.name)
      return refuse("failed", "plugin_invalid", `its folder is named ${found.name} but its declaration ${plugin.name}`);
    return {
      loaded: { ...entryOf(found, digest), version: plugin.version, plugin },
      declaration: declare(plugin),
      listed,
    };
  } catch (error) {
    if (signal.aborted) throw error;
    const { code, reason } = outcomeOf(error);
    return refuse("failed", code, reason);
  }
}

const entryOf = (found: Found, digest: string): Omit<LoadedPlugin, "version" | "plugin"> => ({
  name: found.name,
  origin: found.origin,
  entry: found.entry,
  folder: found.folder,
  digest,
});

async function imported(entry: string, { signal, importMs = IMPORT_MS }: LadderOptions): Promise<Plugin> {
  const timeout = AbortSignal.timeout(importMs);
  const module = (await raced(import(entry), AbortSignal.any([signal, timeout]), () => late(importMs))) as {
    default?: unknown;
  };
  return checkPlugin(module.default);
}

const late = (importMs: number): WaverError =>
  new WaverError("plugin_timeout", `it did not finish importing within ${importMs / 1000} s`);

function raced<T>(work: Promise<T>, signal: AbortSignal, error: () => Error): Promise<T> {
  return new Promise((done, fail) => {
    signal.addEventListener("abort", () => fail(error()), { once: true });
    work.then(done, fail);
  });
}

const Extraction = z.union([
  z.object({ declaration: Declaration }),
  z.object({
    refused: z.object({ code: z.enum(Object.keys(ERROR_CODES) as [ErrorCode, ...ErrorCode[]]), reason: z.string() }),
  }),
]);

const declarationFile = (config: Config, digest: string): string =>
  join(config.cache, "declarations", `${digest.slice("sha256:".length)}.json`);

/** Drops what was kept of a plugin that is removed. */
export async function forgetDeclaration(config: Config, digest: string): Promise<void> {
  const file = declarationFile(config, digest);
  await rm(file, { force: true });
  await rm(`${file}.failed`, { force: true });
}

/** The declaration of a third-party plugin, from the cache or from a child process that imports it once. */
async function extracted(found: Found, digest: string, options: LadderOptions): Promise<Declaration> {
  const file = declarationFile(options.config, digest);
  await mkdir(join(file, ".."), { recursive: true });
  const failed = `${file}.failed`;
  let extraction = (await read(file)) ?? (await read(failed, FAILED_MS));
  if (extraction === null) {
    const reason = await spawnExtract(found, digest, file, options);
    extraction = reason === null ? await read(file) : { refused: reason };
    extraction ??= { refused: { code: "plugin_invalid", reason: "its declaration is not plain data" } };
    if ("refused" in extraction) {
      await rm(file, { force: true });
      await Bun.write(failed, JSON.stringify(extraction));
    }
  }
  if ("refused" in extraction) throw new WaverError(extraction.refused.code, extraction.refused.reason);
  return extraction.declaration;
}

async function spawnExtract(
  found: Found,
  digest: string,
  output: string,
  { signal, importMs = IMPORT_MS }: LadderOptions,
): Promise<{ code: ErrorCode; reason: string } | null> {
  const child = Bun.spawn(
    [process.execPath, "--no-install", join(import.meta.dir, "extract.ts"), found.entry, digest, output],
    {
      cwd: found.folder,
      env: scrubbedEnv(),
      stdio: ["ignore", "ignore", "ignore"],
    },
  );
  const timeout = AbortSignal.timeout(importMs);
  const kill = (): void => child.kill("SIGKILL");
  const ended = AbortSignal.any([signal, timeout]);
  ended.addEventListener("abort", kill, { once: true });
  const code = await child.exited;
  ended.removeEventListener("abort", kill);
  signal.throwIfAborted();
  if (timeout.aborted) return { code: "plugin_timeout", reason: late(importMs).message };
  if (await Bun.file(output).exists()) return null;
  return {
    code: "plugin_failed",
    reason: `it ended the process with ${child.signalCode ?? `code ${code}`} while being imported`,
  };
}

async function read(file: string, maxAge = Number.POSITIVE_INFINITY): Promise<z.output<typeof Extraction> | null> {
  const facts = await stat(file).catch(() => null);
  if (facts === null || Date.now() - facts.mtimeMs > maxAge) return null;
  const parsed = Extraction.safeParse(JSON.parse(await readFile(file, "utf8")));
  return parsed.success ? parsed.data : null;
}

/** Names that the client gives to its own commands. */
/** Commands and addresses of the host's own. */
const RESERVED = new Set(
  "serve status stop jobs doctor plugins help autocomplete web client models open operations artifacts shutdown videos uploads session".split(
    " ",
  ),
);

/** Same hook and id, or same operation, twice: the one that came first stays, built-ins before installed ones. */
function withoutDuplicates(
  climbed: readonly Climbed[],
  core: ReadonlySet<string>,
): { kept: Climbed[]; refused: Refused[] } {
  const owners = new Map<string, string>();
  const kept: Climbed[] = [];
  const refused: Refused[] = [];
  for (const each of climbed) {
    const { name, version, origin, folder } = each.loaded;
    const operations = Object.keys(each.declaration.operations);
    const claims = [
      ...each.declaration.provides.map(({ hook, id }) => `the provider ${id} of ${hook}`),
      ...operations.map((operation) => `the operation ${operation}`),
    ];
    const reserved = operations.find((operation) => RESERVED.has(operation) || core.has(operation));
    const taken = claims.find((claim) => owners.has(claim));
    if (reserved === undefined && taken === undefined) {
      for (const claim of claims) owners.set(claim, name);
      kept.push(each);
      continue;
    }
    const reason =
      reserved !== undefined
        ? `its operation ${reserved} has a name of the host's own`
        : `${taken} is given by both ${owners.get(taken as string)} and ${name}`;
    const { listed } = each;
    refused.push({ name, version, origin, folder, listed, state: "failed", code: "plugin_conflict", reason });
  }
  return { kept, refused };
}
