/**
 * The program of a runner (`--role device`, owns the engine of one device) and of a worker (`--role worker`, no engine).
 * Started by the daemon with an IPC channel and a pipe on descriptor 3 that hears a byte a second while the process lives.
 */
import { writeSync } from "node:fs";
import { version } from "../../package.json";
import { toWaverError } from "../../plugins/index.ts";
import { type Config, loadConfig } from "../config.ts";
import { loadRegistry } from "../plugins/registry.ts";
import { DaemonLink } from "./link.ts";
import type { RankArguments } from "./mesh.ts";
import { type FromRunner, parseRunnerArguments, ToRunner } from "./protocol.ts";
import type { Ranks } from "./ranks.ts";
import { Runner } from "./runner.ts";
import { usesFile } from "./uses.ts";

const HEARTBEAT_FD = 3;
const HEARTBEAT_MS = 1000;
/** Of what the process says of its end: libraries put whole stacks into a message. */
const MOST_WORDS = 500;
/** A stop that takes longer is no longer graceful. */
const STOP_MS = 10_000;

const args = parseRunnerArguments(process.argv.slice(2));
const send = (message: FromRunner): void => {
  if (process.send === undefined) throw new Error("a runner is started by the daemon, with an IPC channel");
  if (process.connected) process.send(message);
};

/** A promise that nobody awaits has failed: state is unknown, so the process ends and the daemon starts another. */
function dieOf(event: string, error: unknown): void {
  const body = toWaverError(error).toBody();
  send({ type: "log", lease: null, level: "error", event, fields: { reason: body.message, code: body.code } });
  const message = (body.message.split("\n", 1)[0] as string).slice(0, MOST_WORDS);
  send({ type: "dying", message, ...(body.hint === undefined ? {} : { hint: body.hint }) });
  process.stderr.write(
    `${JSON.stringify({ level: "error", event, reason: body.message, stack: error instanceof Error ? error.stack : undefined })}\n`,
  );
  // The channel needs a turn to carry the last words.
  setTimeout(() => process.exit(70), 50);
}
process.on("unhandledRejection", (error) => dieOf("unhandled_rejection", error));
process.on("uncaughtException", (error) => dieOf("uncaught_exception", error));

const config = share(await loadConfig());
const load = (): ReturnType<typeof loadRegistry> =>
  loadRegistry({ config, signal: new AbortController().signal, quarantined: args.without });
const facts = args.role === "device" ? await startEngine() : beatHere();
const fitted = args.role === "device" ? await withinDevice(config) : config;
const link = new DaemonLink(send);
const ranks = args.ranks === undefined ? undefined : await meetOthers(args.ranks);
const follows = ranks !== undefined && ranks.args.rank > 0;
const runner = new Runner({
  ...args,
  config: fitted,
  registry: await load(),
  link,
  reload: load,
  // A worker runs the code of one third party at most, and the daemon knows of which.
  ...(args.role === "device" ? { usesFile: usesFile(config.home, process.pid) } : {}),
  ranks: follows ? undefined : ranks,
});
if (follows)
  ranks
    .follow(
      () => runner.open(),
      (event, fields) => send({ type: "log", lease: null, level: "error", event, fields }),
    )
    .catch((error: unknown) => dieOf("following_failed", error));

async function take(message: ToRunner): Promise<void> {
  switch (message.type) {
    case "run":
      return runner.run(message);
    case "call":
      return runner.call(message);
    case "cancel":
      return runner.cancel(message.job);
    case "cancelCall":
      return runner.cancelCall(message.call);
    case "used":
    case "submitted":
      return link.answered(message);
    case "evict":
      return runner.evict(message.bytes);
    case "join":
      return; // heard in meetOthers
    case "stop":
      return stop(0);
  }
}

async function stop(code: number): Promise<never> {
  setTimeout(() => process.exit(code === 0 ? 75 : code), STOP_MS).unref();
  await runner[Symbol.asyncDispose]();
  process.exit(code);
}

process.on("message", (message: unknown) => {
  take(ToRunner.parse(message)).catch((error: unknown) => dieOf("message_failed", error));
});
// Without its daemon a job has no lease: what it would publish, nobody would believe.
process.on("disconnect", () => stop(1).catch((error: unknown) => dieOf("stop_failed", error)));
process.on("SIGTERM", () => stop(0).catch((error: unknown) => dieOf("stop_failed", error)));
// Ctrl-C in a terminal reaches the whole group; the daemon decides what to stop.
process.on("SIGINT", () => undefined);
setInterval(() => send({ type: "beat", rssBytes: process.memoryUsage.rss() }), 2 * HEARTBEAT_MS).unref();
send({ type: "ready", pid: process.pid, device: args.device, facts: { version, bun: Bun.version, ...facts } });

/**
 * Ranks on one machine's CPU divide its threads and its memory. With weights in parts a network may be as large as all the
 * ranks of a replica have room for: what it is admitted by is its whole size.
 */
function share(whole: Config): Config {
  if (args.ranks === undefined) return whole;
  const { count, replicas, shardWeights } = args.ranks;
  const onCpu = args.device === "cpu";
  const part = (amount: number): number => Math.max(1, Math.floor(onCpu ? amount / count : amount));
  const together = shardWeights ? count / replicas : 1;
  return { ...whole, threads: part(whole.threads), memoryBudget: part(whole.memoryBudget * together) };
}

/** A budget that is more than a GPU has was meant for the machine: then 70 % of the GPU, and the rest for what is computed. */
async function withinDevice(whole: Config): Promise<Config> {
  if (args.device === "cpu" || facts["engine"] !== true) return whole;
  const { deviceMemory } = await import("../../native/index.ts");
  const { total } = deviceMemory(args.device) ?? { total: Number.POSITIVE_INFINITY };
  return whole.memoryBudget <= total ? whole : { ...whole, memoryBudget: Math.floor(total * 0.7) };
}

/** Returns when all ranks have met. A rank that has no engine ends: the job learns the reason. */
async function meetOthers(mine: RankArguments): Promise<Ranks> {
  const { Ranks } = await import("./ranks.ts");
  return Ranks.meet(mine, args.device, {
    tell: (meeting) => send({ type: "meeting", meeting }),
    told: () =>
      new Promise((resolve) => {
        process.on("message", function hear(raw: unknown) {
          const message = ToRunner.parse(raw);
          if (message.type !== "join") return;
          process.off("message", hear);
          resolve(message);
        });
      }),
  });
}

/** Loads the engine. Without it the process lives on: each job that needs it fails with the reason and the cure. */
async function startEngine(): Promise<Record<string, unknown>> {
  const native = await import("../../native/index.ts");
  try {
    native.setThreads(config.threads);
    startNativeBeat(native);
    return { engine: true, cpu: native.cpuCapability(), devices: native.deviceCount(), threads: native.getThreads() };
  } catch (error) {
    return { engine: false, reason: toWaverError(error).message, ...beatHere() };
  }
}

function startNativeBeat(native: typeof import("../../native/index.ts")): void {
  if (canBeat()) native.startHeartbeat(HEARTBEAT_FD, HEARTBEAT_MS);
}

/** A beat of the event loop, for processes that run no long operators. */
function beatHere(): Record<string, unknown> {
  if (canBeat()) setInterval(canBeat, HEARTBEAT_MS).unref();
  return {};
}

/** Writes one beat; false when nobody listens on the descriptor (a runner started by hand). */
function canBeat(): boolean {
  try {
    writeSync(HEARTBEAT_FD, ".");
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "EBADF" || code === "EPIPE" || code === "EINVAL") return false;
    // The pipe is full: the daemon is slow to read, and has beats enough.
    if (code === "EAGAIN") return true;
    throw error;
  }
}
