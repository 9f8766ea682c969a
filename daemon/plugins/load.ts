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
}

export interface LadderOptions {
  readonly config: Config;
  readonly signal: AbortSignal;
  readonly quarantined?: ReadonlyMap<string, string>;
}

/** All plugins that reached the top, in order, and the rung at which each other one stopped. */
export async function loadPlugins({
  config,
  signal,
  quarantined,
}: LadderOptions): Promise<{ climbed: Climbed[]; refused: Refused[] }> {
  const { found, refused } = await discover(config);
  const results = await Promise.all(found.map((each) => climb(each, config, signal, quarantined)));
  signal.throwIfAborted();
  const outcome = { climbed: [] as Climbed[], refused };
  for (const result of results) ("loaded" in result ? outcome.climbed : outcome.refused).push(result as never);
  const unique = withoutDuplicates(outcome.climbed);
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

async function climb(
  found: Found,
  config: Config,
  signal: AbortSignal,
  quarantined: LadderOptions["quarantined"],
): Promise<Climbed | Refused> {
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
  const crash = quarantined?.get(found.name);
  if (crash !== undefined) return refuse("quarantined", "plugin_failed", crash);
  try {
    if (found.hookApi !== null) checkApi(found.hookApi);
    const digest = await folderDigest(found.folder);
    if (found.origin === "installed") {
      const declaration = await extracted(found, digest, config, signal);
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
      return { loaded: { ...entryOf(found, digest), version: found.version, plugin: null }, declaration };
    }
    const plugin = await imported(found.entry, signal);
    if (plugin.name !== found.name)
      return refuse("failed", "plugin_invalid", `its folder is named ${found.name} but its declaration ${plugin.name}`);
    return { loaded: { ...entryOf(found, digest), version: plugin.version, plugin }, declaration: declare(plugin) };
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

async function imported(entry: string, signal: AbortSignal): Promise<Plugin> {
  const timeout = AbortSignal.timeout(IMPORT_MS);
  const module = (await raced(import(entry), AbortSignal.any([signal, timeout]), () => late())) as {
    default?: unknown;
  };
  return checkPlugin(module.default);
}

const late = (): WaverError =>
  new WaverError("plugin_timeout", `it did not finish importing within ${IMPORT_MS / 1000} s`);

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

/** The declaration of a third-party plugin, from the cache or from a child process that imports it once. */
async function extracted(found: Found, digest: string, config: Config, signal: AbortSignal): Promise<Declaration> {
  const folder = join(config.cache, "declarations");
  await mkdir(folder, { recursive: true });
  const file = join(folder, `${digest.slice("sha256:".length)}.json`);
  const failed = `${file}.failed`;
  let extraction = (await read(file)) ?? (await read(failed, FAILED_MS));
  if (extraction === null) {
    const reason = await spawnExtract(found, digest, file, signal);
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
  signal: AbortSignal,
): Promise<{ code: ErrorCode; reason: string } | null> {
  const child = Bun.spawn(
    [process.execPath, "--no-install", join(import.meta.dir, "extract.ts"), found.entry, digest, output],
    {
      cwd: found.folder,
      env: scrubbedEnv(),
      stdio: ["ignore", "ignore", "ignore"],
    },
  );
  const timeout = AbortSignal.timeout(IMPORT_MS);
  const kill = (): void => child.kill("SIGKILL");
  const ended = AbortSignal.any([signal, timeout]);
  ended.addEventListener("abort", kill, { once: true });
  const code = await child.exited;
  ended.removeEventListener("abort", kill);
  signal.throwIfAborted();
  if (timeout.aborted) return { code: "plugin_timeout", reason: late().message };
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
const RESERVED = new Set(["serve", "status", "stop", "jobs", "doctor", "plugins", "help", "autocomplete", "web"]);

/** Same hook and id, or same operation, twice: the one that came first stays, built-ins before installed ones. */
function withoutDuplicates(climbed: readonly Climbed[]): { kept: Climbed[]; refused: Refused[] } {
  const owners = new Map<string, string>();
  const kept: Climbed[] = [];
  const refused: Refused[] = [];
  for (const each of climbed) {
    const names = [
      ...each.declaration.provides.map(({ hook, id }) => `the provider ${id} of ${hook}`),
      ...Object.keys(each.declaration.operations).map((name) => `the operation ${name}`),
    ];
    const reserved = Object.keys(each.declaration.operations).find((name) => RESERVED.has(name));
    const taken = names.find((name) => owners.has(name));
    if (reserved === undefined && taken === undefined) {
      for (const name of names) owners.set(name, each.loaded.name);
      kept.push(each);
      continue;
    }
    const { name, version, origin, folder } = each.loaded;
    const reason =
      reserved !== undefined
        ? `the operation name ${reserved} is reserved`
        : `${taken} is given by both ${owners.get(taken as string)} and ${name}`;
    refused.push({ name, version, origin, folder, listed: false, state: "failed", code: "plugin_conflict", reason });
  }
  return { kept, refused };
}
