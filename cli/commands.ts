/** The table of commands: the fixed ones by name, one for each operation, built only when it is called for. */
import { dirname } from "node:path";
import { type Command, Config, Plugin, run } from "@oclif/core";
import type { OperationsDoc } from "../daemon/wire.ts";
import { version } from "../package.json";
import { WaverError } from "../plugins/errors.ts";
import { keptDocs, renewedDocs } from "./docs.ts";
import { nearest } from "./nearest.ts";
import { shownOperations } from "./overview.ts";
import type { Target } from "./target.ts";

type Table = Readonly<Record<string, Command.Class>>;

/** First words of the fixed commands, each with its file. */
const FIXED: Readonly<Record<string, (docs: OperationsDoc | null) => Promise<Table>>> = {
  serve: async () => ({ serve: (await import("./fixed/serve.ts")).Serve }),
  status: async () => ({ status: (await import("./fixed/status.ts")).StatusCommand }),
  stop: async () => ({ stop: (await import("./fixed/stop.ts")).Stop }),
  doctor: async () => ({ doctor: (await import("./fixed/doctor.ts")).Doctor }),
  jobs: async () => (await import("./fixed/jobs.ts")).jobs,
  plugins: async (docs) => (await import("./fixed/plugins.ts")).plugins(docs),
  models: async (docs) => (await import("./fixed/models.ts")).models(docs),
  open: async () => ({ open: (await import("./fixed/open.ts")).Open }),
  plan: async (docs) => (await import("./fixed/plan.ts")).plans(docs),
  client: async () => ({ "client:types": (await import("./fixed/client.ts")).ClientTypes }),
};

/** Fixed words whose verbs are operations. */
const FROM_OPERATIONS: ReadonlySet<string> = new Set(["plugins", "models", "plan"]);

const TOPICS = {
  jobs: { description: "what the daemon has done, is doing and will do" },
  plugins: { description: "what adds models, methods, measures and operations" },
  models: { description: "models on this machine" },
  plan: { description: "what a job would take, before it is spent" },
  client: { description: "the typed client for programs" },
};

/** Errors of ours, which carry no data, that may only mean that the operations kept on disk are older than the plugins. */
const STALE: ReadonlySet<string> = new Set(["unknown_operation", "unknown_option", "no_provider"]);

/** Runs one command line. `first`: its first word that is no option. */
export async function runCommand(argv: readonly string[], first: string, target: Target): Promise<void> {
  const docs = first in FIXED && !FROM_OPERATIONS.has(first) ? null : await keptDocs(target);
  try {
    await runWith(docs, argv, first);
  } catch (error) {
    if (docs === null || !(error instanceof WaverError) || !STALE.has(error.code) || error.data !== undefined)
      throw error;
    const renewed = await renewedDocs(target);
    if (renewed.pluginSet === docs.pluginSet) throw error;
    await runWith(renewed, argv, first);
  }
}

async function runWith(docs: OperationsDoc | null, argv: readonly string[], first: string): Promise<void> {
  const table = await tableFor(docs, first);
  const at = argv.indexOf(first);
  const rest = argv.filter((_, i) => i !== at);
  const second = rest.find((word) => !word.startsWith("-"));
  if (first in TOPICS && second !== undefined) checkVerb(first, second, Object.keys(table));
  await run([first, ...rest], await configOf(table));
}

async function tableFor(docs: OperationsDoc | null, first: string): Promise<Table> {
  const fixed = FIXED[first];
  if (fixed !== undefined) return fixed(docs);
  const operations = docs === null ? [] : shownOperations(docs);
  const operation = operations.find(({ name }) => name === first);
  if (docs === null || operation === undefined) {
    const near = nearest(first, [...operations.map(({ name }) => name), ...Object.keys(FIXED)]);
    throw new WaverError("unknown_operation", first === "" ? "a command is missing" : `there is no command ${first}`, {
      hint: near === null ? "waver --help lists them" : `did you mean waver ${near}?`,
    });
  }
  const { commandOf } = await import("./operation.ts");
  return { [first]: commandOf(operation, docs) };
}

function checkVerb(topic: string, verb: string, ids: readonly string[]): void {
  const verbs = ids.map((id) => id.slice(topic.length + 1));
  if (verbs.includes(verb)) return;
  const near = nearest(verb, verbs);
  throw new WaverError("unknown_operation", `there is no command ${topic} ${verb}`, {
    hint: near === null ? `there are: ${verbs.join(", ")}` : `did you mean waver ${topic} ${near}?`,
  });
}

/** oclif's configuration with this table and nothing to discover: no manifest could freeze it. */
async function configOf(table: Table): Promise<Config> {
  const root = dirname(import.meta.dir);
  const pjson = {
    name: "waver",
    version,
    type: "module",
    oclif: {
      bin: "waver",
      topicSeparator: " ",
      topics: TOPICS,
      additionalHelpFlags: ["-h"],
      helpOptions: { flagSortOrder: "none", hideCommandSummaryInDescription: true },
      commands: { strategy: "explicit", target: "cli/commands.ts", identifier: "commands" },
    },
  } as never;
  const plugin = new Plugin({ isRoot: true, root, pjson, ignoreManifest: true, name: "waver" });
  // What oclif would have imported from `target`; made here, since it depends on the daemon.
  (plugin as unknown as { commandCache: Table }).commandCache = table;
  await plugin.load();
  return Config.load({ root, pjson, plugins: new Map([[plugin.name, plugin]]) });
}
