/**
 * The daemon: `bun daemon/main.ts [--home DIR]`. Configuration, lock, plugins, journal, jobs, listeners, in this order;
 * the stop runs it backwards. Prints one line of JSON when it is ready, or why it is not.
 */
import { chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { version } from "../package.json";
import { toWaverError, WaverError } from "../plugins/errors.ts";
import { type Config, handDown, loadConfig } from "./config.ts";
import { createApp } from "./http/app.ts";
import { Artifacts } from "./http/artifacts.ts";
import type { Daemon } from "./http/daemon.ts";
import { examine } from "./http/doctor.ts";
import { type Listener, listenOnSocket, listenOnTcp } from "./http/listen.ts";
import { DOORS } from "./http/routes.ts";
import { Sessions } from "./http/sessions.ts";
import { Uploads } from "./http/uploads.ts";
import { Videos } from "./http/videos.ts";
import type { InDaemon } from "./jobs/dispatch.ts";
import { Jobs } from "./jobs/jobs.ts";
import { Journal } from "./jobs/journal.ts";
import { lockHome, reapOrphans } from "./jobs/pidfile.ts";
import type { ProcessProgram } from "./jobs/process.ts";
import { type DaemonLog, openLog } from "./log.ts";
import { scrubbedEnv } from "./plugins/host.ts";
import { type LoadRegistryOptions, loadRegistry, type Registry } from "./plugins/registry.ts";
import { readUses, usesFile } from "./runner/uses.ts";

/** Running jobs get this long to reach a unit boundary when the daemon stops. */
const GRACE_MS = 10_000;
/** Jobs that may wait (reliability.md L3). */
const QUEUE_LIMIT = 1_000;
/** Silence after which a process counts as hung: its heartbeat comes each second from a thread of its own. */
const SILENCE_MS = 15_000;
/** Loading the engine from a cold disk. */
const START_MS = 120_000;
/** One operator of ours, beside a third party's code, may take as many times the patience with that code. */
const OPERATOR = 5;

export interface DaemonOptions {
  readonly config: Config;
  readonly load?: (options: LoadRegistryOptions) => Promise<Registry>;
  /** What runs as runner and worker; tests put a stand-in here. */
  readonly program?: ProcessProgram;
  readonly graceMs?: number;
  readonly queueLimit?: number;
  /** The journal can no longer be written: end at once and recover at the next start. */
  readonly fatal?: (error: unknown) => void;
}

export interface RunningDaemon {
  readonly addresses: readonly string[];
  /** Resolves when the daemon has stopped, by signal or by request. */
  readonly stopped: Promise<void>;
  stop(): Promise<void>;
}

export async function startDaemon(options: DaemonOptions): Promise<RunningDaemon> {
  const { config } = options;
  const runDir = join(config.home, "run");
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  chmodSync(runDir, 0o700);
  await using starting = new AsyncDisposableStack();
  starting.use(lockHome(runDir));
  const log = openLog(join(config.home, "log", "daemon.log"));
  const pidFolder = join(runDir, "processes");
  const reaped = await reapOrphans(pidFolder);
  if (reaped.length > 0) log("warn", "orphans_killed", { pids: reaped });

  const abort = new AbortController();
  const quarantined = new Map<string, string>();
  const load = (): Promise<Registry> => (options.load ?? loadRegistry)({ config, signal: abort.signal, quarantined });
  let registry = await load();
  for (const warning of registry.warnings) log("warn", "plugin_warning", { warning });
  const reload = async (): Promise<Registry> => {
    registry = await load();
    jobs.pluginsChanged();
    return registry;
  };
  // Asked for by a person, who may have mended it: what was put in quarantine gets another chance.
  const renew = (): Promise<Registry> => {
    quarantined.clear();
    jobs.forgive();
    return reload();
  };

  const artifacts = new Artifacts(config);
  const sessions = new Sessions();
  const uploads = new Uploads(config.home);
  const store = starting.use(new Journal(join(config.home, "journal.sqlite")));
  const jobs = new Jobs({
    config,
    registry: () => registry,
    store,
    program: options.program ?? programOf(config),
    pidFolder,
    log,
    queueLimit: options.queueLimit ?? QUEUE_LIMIT,
    exists: (written) => artifacts.exists(written),
    inDaemon: inDaemon({ config, registry: () => registry, reload, renew, log }),
    quarantined: () => new Map(quarantined),
    quarantine: (plugin, reason) => {
      log("error", "plugin_quarantined", { plugin, reason });
      quarantined.set(plugin, reason);
      reload().catch((error: unknown) => log("error", "reload_failed", { error }));
    },
    fatal: (error) => {
      log("error", "journal_failed", { error });
      (options.fatal ?? (() => process.exit(70)))(error);
    },
  });
  starting.defer(() => jobs.stop(options.graceMs ?? GRACE_MS));
  await jobs.start();

  const listeners: Listener[] = [];
  const started = performance.now();
  const stopping = Promise.withResolvers<void>();
  const daemon: Daemon = {
    jobs,
    artifacts,
    uploads,
    videos: new Videos({ home: config.home, jobs, artifacts, uploads }),
    sessions,
    log,
    registry: () => registry,
    reload: renew,
    status: async () => ({
      version,
      pid: process.pid,
      uptime: (performance.now() - started) / 1000,
      home: config.home,
      pluginSet: registry.pluginSet,
      ...(await jobs.status()),
      listeners: listeners.map((each) => each.address),
    }),
    doctor: (signal) => examine(config, version, signal),
    stop: () => stopping.resolve(),
  };
  const app = createApp(daemon);
  const doors = { ...DOORS, sessions };
  // Closed before everything else, but only when the jobs have stopped: until then clients may look.
  const open = starting.move();
  await using closing = new AsyncDisposableStack();
  closing.use(open);
  listeners.push(closing.use(await listenOnSocket(config.socket, app, doors)));
  const tcp = closing.use(await listenOnTcp(config, app, doors));
  if (tcp !== null) listeners.push(tcp);
  log("info", "ready", {
    pid: process.pid,
    version,
    listeners: listeners.map((each) => each.address),
    pluginSet: registry.pluginSet,
  });

  const kept = closing.move();
  const stopped = stopping.promise.then(async () => {
    log("info", "stopping", {});
    await jobs.stop(options.graceMs ?? GRACE_MS);
    abort.abort(new WaverError("cancelled", "the daemon is stopping"));
    await kept.disposeAsync();
    log("info", "stopped", {});
  });
  return {
    addresses: listeners.map((each) => each.address),
    stopped,
    stop: () => {
      stopping.resolve();
      return stopped;
    },
  };
}

/** Runner and workers: the same program, told by its arguments what it is. Third-party code sees no secrets. */
export function programOf(config: Config): ProcessProgram {
  return {
    command: [process.execPath, "--no-install", join(import.meta.dir, "runner", "main.ts")],
    env: ({ plugin }) =>
      plugin === null
        ? { ...definedOf(process.env), ...handDown(config, { trusted: true }) }
        : scrubbedEnv(handDown(config, { trusted: false, plugin })),
    cwd: config.home,
    silenceMs: SILENCE_MS,
    startMs: START_MS,
    foreign: {
      uses: (pid) => readUses(usesFile(config.home, pid)),
      busyMs: config.patience * OPERATOR * 1000,
    },
  };
}

const definedOf = (env: Readonly<Record<string, string | undefined>>): Record<string, string> =>
  Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));

/** Operations of the daemon's own. Loaded at first use: few requests need it. */
function inDaemon(host: {
  config: Config;
  registry: () => Registry;
  reload: () => Promise<Registry>;
  /** As `reload`, on the word of a person. */
  renew: () => Promise<Registry>;
  log: DaemonLog;
}): InDaemon {
  let made: Promise<InDaemon> | null = null;
  const make = async (): Promise<InDaemon> => {
    const { Runner } = await import("./runner/runner.ts");
    const nobody = (): Promise<never> =>
      Promise.reject(new WaverError("internal", "an operation of the daemon starts no other work"));
    const { config, registry, reload, renew } = host;
    return new Runner({
      role: "daemon",
      device: "cpu",
      plugin: null,
      config,
      registry: registry(),
      reload,
      link: {
        send: (message) =>
          message.type === "log" ? host.log(message.level, message.event, message.fields) : undefined,
        use: nobody,
        submit: nobody,
      },
      daemon: { config, registry, reload: renew },
    });
  };
  return {
    execute: async (operation, body, work) => {
      made ??= make();
      return (await made).execute(operation, body, work);
    },
  };
}

/** `--home DIR` of the command line. */
function homeOf(argv: readonly string[]): string | undefined {
  const at = argv.indexOf("--home");
  const unknown = argv.filter((word, i) => i !== at && i !== at + 1 && word.startsWith("-"));
  if (unknown.length > 0)
    throw new WaverError("unknown_option", `${unknown[0]} is not an option of the daemon`, {
      hint: "bun daemon/main.ts [--home DIR]",
    });
  if (at < 0) return undefined;
  const home = argv[at + 1];
  if (home === undefined) throw new WaverError("invalid_input", "--home needs a folder");
  return home;
}

if (import.meta.main) {
  try {
    const home = homeOf(process.argv.slice(2));
    const config = await loadConfig(home === undefined ? {} : { set: { home } });
    const daemon = await startDaemon({ config });
    process.stdout.write(
      `${JSON.stringify({ ready: true, pid: process.pid, version, addresses: daemon.addresses })}\n`,
    );
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.on(signal, () => void daemon.stop());
    await daemon.stopped;
    process.exit(0);
  } catch (error) {
    process.stdout.write(`${JSON.stringify({ ready: false, error: toWaverError(error).toBody() })}\n`);
    process.exit(1);
  }
}
