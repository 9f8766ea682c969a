/**
 * The processes behind the lanes: one runner for the device, a pool of workers, one worker for each third-party plugin.
 * Processes start when first needed, come back with growing delays after a death, and are given up after repeated
 * failed starts, so that a job gets an answer instead of waiting for ever.
 */

import { rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Ranks } from "../../plugins/define.ts";
import { toWaverError, WaverError } from "../../plugins/errors.ts";
import type { DaemonLog } from "../log.ts";
import { rankDevice } from "../runner/mesh.ts";
import type { RunnerArguments } from "../runner/protocol.ts";
import type { Status } from "../wire.ts";
import { backoffMs } from "./failures.ts";
import { writePidFile } from "./pidfile.ts";
import { type Exit, type ProcessListener, type ProcessProgram, RunnerProcess } from "./process.ts";
import { RankGroup } from "./ranks.ts";
import type { Lane } from "./state.ts";

export interface FleetOptions {
  readonly program: ProcessProgram;
  readonly device: string;
  readonly workers: number;
  /** Idle workers above none are let go after this. */
  readonly keepAliveMs: number;
  /** <home>/run/processes: what a later daemon reaps. */
  readonly pidFolder: string;
  readonly log: DaemonLog;
  readonly listener: ProcessListener;
  /** A third-party plugin took a process down, or too often hung in one. */
  quarantine(plugin: string, reason: string): void;
  /** Those that were put out of service, with the reason. */
  quarantined(): ReadonlyMap<string, string>;
}

/** What is the daemon's own business (its plugins, its store) and computes nothing: runs in the daemon itself. */
export const DAEMON_LANE: Lane = "daemon";
export const DEVICE_LANE: Lane = "device";
export const WORKER_LANE: Lane = "worker";
export const pluginLane = (plugin: string): Lane => `plugin:${plugin}`;
/** Where processes that work on one job are found again; to the scheduler such a job is one of the device. */
export const ranksLane = (ranks: Ranks): Lane => `ranks:${JSON.stringify(ranks)}`;

/** Ranks on a CPU of fewer cores: to try what will run elsewhere. */
const MOST_ON_CPU = 8;
/** Starts in a row that never became ready, after which a lane gives up for a while. */
const MAX_FAILED_STARTS = 3;
const GIVE_UP_MS = 30_000;
/** A process that lived this long was healthy: its death starts a new count. */
const HEALTHY_MS = 60_000;
/** Crashes and hangs of a plugin within the window that put it in quarantine (reliability.md P1). */
const PLUGIN_CRASHES = 3;
const PLUGIN_WINDOW_MS = 600_000;

/** Processes of one lane and the history of their deaths. */
class Crew {
  readonly processes = new Set<RunnerProcess>();
  restarts = 0;
  failures = 0;
  failedStarts = 0;
  notBefore = 0;
  lastStart = 0;
  lastError: WaverError | null = null;
}

export class Fleet {
  readonly #options: FleetOptions;
  readonly #crews = new Map<Lane, Crew>();
  /** Times of crashes and hangs by third-party plugin. */
  readonly #offences = new Map<string, number[]>();
  readonly #sweep: ReturnType<typeof setInterval>;
  #stopping = false;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#sweep = setInterval(() => this.#letIdleGo(), 10_000);
    this.#sweep.unref();
  }

  /** A ready process for a job of this lane; workers are reserved until `release`. */
  async acquire(lane: Lane, signal: AbortSignal): Promise<RunnerProcess> {
    const crew = this.#crew(lane);
    for (;;) {
      signal.throwIfAborted();
      if (this.#stopping) throw new WaverError("daemon_unreachable", "the daemon is stopping");
      if (crew.lastError !== null && crew.failedStarts >= MAX_FAILED_STARTS) {
        if (performance.now() < crew.lastStart + GIVE_UP_MS) throw crew.lastError;
        crew.failedStarts = 0;
      }
      const shared = lane !== WORKER_LANE;
      const free = [...crew.processes].find((each) => isUsable(each) && !isFollower(each) && (shared || !each.busy));
      if (free === undefined && crew.notBefore > performance.now()) {
        await pause(crew.notBefore - performance.now(), signal);
        continue;
      }
      const chosen = free ?? this.#start(lane, crew);
      if (!shared) chosen.busy = true;
      try {
        await chosen.ready;
      } catch (error) {
        // Counted where the exit is seen; the loop decides whether to try again.
        crew.lastError = toWaverError(error);
        continue;
      }
      return chosen;
    }
  }

  release(from: RunnerProcess): void {
    from.busy = from.jobs.size > 0;
    from.idleSince = performance.now();
    if (from.isRetired && from.jobs.size === 0 && from.calls.size === 0) from.stop();
    if (from.args.role !== "worker" || from.args.plugin !== null || from.busy || from.calls.size > 0) return;
    const idle = [...this.#crew(WORKER_LANE).processes].filter((each) => !each.busy && isUsable(each));
    if (idle.length > this.#options.workers) from.stop();
  }

  /** A promise of a plugin never settled there. What else waits in that process is unknown: it ends with the work it has. */
  hung(from: RunnerProcess, plugin: string, reason: string): void {
    from.isRetired = true;
    const isForeign = from.args.plugin === plugin || from.uses().ever.includes(plugin);
    this.#options.log("error", "plugin_hung", { pid: from.pid, plugin, reason });
    if (isForeign) this.#count(plugin, reason);
  }

  /** A process for a call of a portable provider: calls share processes with jobs, so they can never wait in a circle. */
  async forCall(lane: Lane, signal: AbortSignal): Promise<RunnerProcess> {
    if (lane !== WORKER_LANE) return this.acquire(lane, signal);
    const crew = this.#crew(lane);
    const alive = [...crew.processes].filter(isUsable);
    const least = alive.sort((a, b) => load(a) - load(b))[0];
    if (least !== undefined && (load(least) === 0 || alive.length >= this.#options.workers * 2)) {
      await least.ready;
      return least;
    }
    const made = await this.acquire(lane, signal);
    made.busy = made.jobs.size > 0;
    return made;
  }

  /** A job of this lane went well: earlier deaths are forgotten. */
  healthy(from: RunnerProcess): void {
    const crew = this.#crew(laneOf(from.args));
    crew.failures = 0;
  }

  status(): Pick<Status, "runners" | "workers"> {
    const crew = this.#crew(DEVICE_LANE);
    const row = (crew: Crew, runner: RunnerProcess | undefined, device: string): Status["runners"][number] => ({
      device,
      pid: runner?.pid ?? null,
      state: runnerState(crew, runner),
      restarts: crew.restarts,
      rssBytes: runner?.rssBytes ?? 0,
      resident: runner?.resident ?? [],
      job: [...((runner?.group?.leader ?? runner)?.jobs.keys() ?? [])][0] ?? null,
    });
    const single = row(
      crew,
      [...crew.processes].find((each) => !each.isGone),
      this.#options.device,
    );
    const ranks = [...this.#crews.values()].flatMap((crew) =>
      [...crew.processes].flatMap((each) => {
        const { ranks, device } = each.args;
        return ranks === undefined ? [] : [row(crew, each, `${device} (rank ${ranks.rank} of ${ranks.count})`)];
      }),
    );
    const workers = this.processes().filter((each) => each.args.role === "worker");
    return {
      runners: [single, ...ranks],
      workers: { size: this.#options.workers, busy: workers.filter((each) => each.busy || each.jobs.size > 0).length },
    };
  }

  processes(): RunnerProcess[] {
    return [...this.#crews.values()].flatMap((crew) => [...crew.processes]).filter((each) => !each.isGone);
  }

  /** Ends every process: politely, and after the grace period by force. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#sweep);
    const all = this.processes();
    for (const each of all) if (!isFollower(each)) each.stop();
    const gone = Promise.all(all.map((each) => each.exited));
    await Promise.race([gone, Bun.sleep(graceMs)]);
    for (const each of all) each.kill("the daemon stopped");
    await gone;
  }

  /** Replaces processes that run an older set of plugins: each ends when its work does. */
  retire(): void {
    for (const each of this.processes())
      if (!isFollower(each) && each.jobs.size === 0 && each.calls.size === 0) each.stop();
  }

  #start(lane: Lane, crew: Crew): RunnerProcess {
    const { device } = this.#options;
    if (crew.lastStart > 0 && crew.failures > 0) crew.restarts += 1;
    crew.lastStart = performance.now();
    if (lane.startsWith("ranks:")) return this.#startRanks(lane, crew);
    const plugin = lane.startsWith("plugin:") ? lane.slice("plugin:".length) : null;
    const role = lane === DEVICE_LANE ? "device" : "worker";
    return this.#spawn(lane, crew, { role, device: role === "device" ? device : "cpu", plugin });
  }

  /** As many processes as there are ranks; the first of them takes the job. */
  #startRanks(lane: Lane, crew: Crew): RunnerProcess {
    const ranks = JSON.parse(lane.slice("ranks:".length)) as Ranks;
    const most = Math.max(MOST_ON_CPU, availableParallelism());
    if (this.#options.device === "cpu" && ranks.count > most)
      throw new WaverError(
        "invalid_input",
        `ranks ${ranks.count} are more than the ${most} that share this CPU at most`,
        {
          hint: "use fewer ranks",
        },
      );
    this.#makeRoom(lane);
    const group = new RankGroup();
    for (let rank = 0; rank < ranks.count; rank++) {
      const device = rankDevice(this.#options.device, rank);
      const made = this.#spawn(lane, crew, {
        role: "device",
        device,
        plugin: null,
        ranks: { ...ranks, rank },
      });
      made.group = group;
      group.add(made);
    }
    return group.leader;
  }

  /** What idle processes keep loaded, ranks of another shape need. */
  #makeRoom(lane: Lane): void {
    for (const [other, crew] of this.#crews)
      for (const each of crew.processes)
        if (other === DEVICE_LANE && each.jobs.size === 0) each.send({ type: "evict", bytes: 0 });
        else if (other.startsWith("ranks:") && other !== lane && !isFollower(each) && load(each) === 0) each.stop();
  }

  #spawn(lane: Lane, crew: Crew, what: Omit<RunnerArguments, "without">): RunnerProcess {
    const without = this.#options.quarantined();
    const args: RunnerArguments = { ...what, without };
    const { program, log, pidFolder, listener } = this.#options;
    const made = new RunnerProcess(
      program,
      args,
      {
        message: (from, message) =>
          message.type === "meeting" ? from.group?.heard(from, message.meeting) : listener.message(from, message),
        gone: (from, exit) => this.#gone(lane, crew, from, exit),
      },
      log,
    );
    crew.processes.add(made);
    writePidFile(join(pidFolder, `${made.pid}.json`), made.pid);
    log("info", "process_started", {
      pid: made.pid,
      lane,
      ...(without.size === 0 ? {} : { without: [...without.keys()] }),
    });
    return made;
  }

  #gone(lane: Lane, crew: Crew, from: RunnerProcess, exit: Exit): void {
    const { log, pidFolder, listener } = this.#options;
    crew.processes.delete(from);
    for (const suffix of ["json", "uses"]) rmSync(join(pidFolder, `${from.pid}.${suffix}`), { force: true });
    log(exit.expected ? "info" : "error", "process_ended", {
      pid: from.pid,
      lane,
      reason: exit.reason,
      jobs: [...from.jobs.keys()],
    });
    if (exit.wasReady) crew.failedStarts = 0;
    // Ranks end together: what counts is the first of them.
    const isFirst = from.group?.gone(from, exit) ?? true;
    if (!exit.expected && isFirst) {
      const now = performance.now();
      crew.failures = now - crew.lastStart > HEALTHY_MS ? 1 : crew.failures + 1;
      if (!exit.wasReady) crew.failedStarts += 1;
      // A pool goes on with its other processes; only a lane with none left has to wait.
      crew.notBefore = now + backoffMs(crew.failures, Math.random());
    }
    listener.gone(from, exit);
    if (!exit.expected) this.#accuse(from, exit);
  }

  /** The device's runner serves all others too: a third party that alone was at work when it died is out at once (design.md 4). */
  #accuse(from: RunnerProcess, { uses, byItself, reason }: Exit): void {
    const { plugin: own } = from.args;
    const suspects = own !== null ? [own] : uses.now.length > 0 ? uses.now : uses.ever;
    for (const plugin of suspects)
      if (own === null && byItself && uses.now.length === 1)
        this.#putOut(plugin, `it was at work when the runner of the device ended by ${reason}`);
      else this.#count(plugin, reason);
  }

  #count(plugin: string, reason: string): void {
    const now = performance.now();
    const times = [...(this.#offences.get(plugin) ?? []).filter((at) => now - at < PLUGIN_WINDOW_MS), now];
    this.#offences.set(plugin, times);
    if (times.length < PLUGIN_CRASHES) return;
    this.#putOut(plugin, `it crashed or hung ${PLUGIN_CRASHES} times within 10 minutes, last by ${reason}`);
  }

  #putOut(plugin: string, reason: string): void {
    this.#offences.delete(plugin);
    // What died of it need not wait: the cause is gone.
    for (const lane of [pluginLane(plugin), DEVICE_LANE]) {
      const crew = this.#crews.get(lane);
      if (crew !== undefined) Object.assign(crew, { failures: 0, notBefore: 0 });
    }
    this.#options.quarantine(plugin, reason);
  }

  /** A person looked after the plugins: they start without a past. */
  forgive(): void {
    this.#offences.clear();
  }

  #letIdleGo(): void {
    const now = performance.now();
    for (const each of this.processes())
      if (
        (each.args.role === "worker" || each.group?.leader === each) &&
        load(each) === 0 &&
        !each.busy &&
        now - each.idleSince > this.#options.keepAliveMs
      )
        each.stop();
  }

  #crew(lane: Lane): Crew {
    const known = this.#crews.get(lane);
    if (known !== undefined) return known;
    const made = new Crew();
    this.#crews.set(lane, made);
    return made;
  }
}

const isUsable = (each: RunnerProcess): boolean =>
  !each.isGone && !each.isStopping && !each.isRetired && each.group?.isBroken !== true;

/** Takes no work of its own, and ends with its leader. */
const isFollower = (each: RunnerProcess): boolean => each.group !== null && each.group.leader !== each;

const load = (each: RunnerProcess): number => each.jobs.size + each.calls.size + (each.busy ? 1 : 0);

const laneOf = (args: RunnerArguments): Lane =>
  args.ranks !== undefined
    ? ranksLane(withoutRank(args.ranks))
    : args.role === "device"
      ? DEVICE_LANE
      : args.plugin === null
        ? WORKER_LANE
        : pluginLane(args.plugin);

const withoutRank = ({ rank: _, ...ranks }: NonNullable<RunnerArguments["ranks"]>): Ranks => ranks;

function runnerState(crew: Crew, runner: RunnerProcess | undefined): Status["runners"][number]["state"] {
  if (runner !== undefined)
    return !runner.isReady ? "starting" : (runner.group?.leader ?? runner).jobs.size > 0 ? "busy" : "idle";
  if (crew.failedStarts >= MAX_FAILED_STARTS) return "broken";
  return crew.notBefore > performance.now() ? "restarting" : "stopped";
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener(
    "abort",
    () => {
      clearTimeout(timer);
      reject(signal.reason);
    },
    { once: true },
  );
  return promise;
}
