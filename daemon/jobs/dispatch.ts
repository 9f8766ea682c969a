/** Carries the scheduler's decisions out: starts jobs in processes, hears what the processes say, answers parents. */
import { type ErrorBody, toWaverError, WaverError } from "../../plugins/errors.ts";
import type { DaemonLog } from "../log.ts";
import type { Registry } from "../plugins/registry.ts";
import type { Work } from "../runner/context.ts";
import type { FromRunner, Lease } from "../runner/protocol.ts";
import type { JobId } from "../wire.ts";
import { Calls } from "./calls.ts";
import type { WorkFolders } from "./folders.ts";
import type { EventHub } from "./hub.ts";
import type { Loop } from "./loop.ts";
import type { RunnerProcess } from "./process.ts";
import type { Decision, Lane, SchedulerState } from "./state.ts";
import type { JobRow, JobStore } from "./store.ts";
import { DAEMON_LANE, DEVICE_LANE, type Fleet, ranksLane } from "./supervise.ts";

export interface DispatchOptions {
  readonly state: SchedulerState;
  readonly store: JobStore;
  readonly registry: () => Registry;
  readonly folders: WorkFolders;
  readonly hub: EventHub;
  readonly log: DaemonLog;
  /** Finds a job's identity, then posts `prepared`. */
  prepare(row: JobRow): void;
  /** A running job asks for a child. */
  submitChild(lease: Lease, call: string, operation: string, input: Readonly<Record<string, unknown>>): Promise<void>;
  /** A request was journalled, or refused. */
  accepted(job: JobId, refusal: ErrorBody | null): void;
  readonly inDaemon: InDaemon;
  /** Whether the disk of the home is full. */
  isFull(): Promise<boolean>;
}

/** Runs an operation of the daemon's own. `runner/runner.ts` behind it; here only what is asked of it. */
export interface InDaemon {
  execute(operation: string, body: Readonly<Record<string, unknown>>, work: Work): Promise<unknown>;
}

/** A query: answered by a process like a job, but neither journalled nor repeated. */
interface Query {
  readonly done: (output: unknown) => void;
  readonly fail: (error: ErrorBody) => void;
}

export class Dispatch {
  readonly calls: Calls;
  readonly #options: DispatchOptions;
  readonly #fleet: Fleet;
  #loop: Loop | null = null;
  /** Jobs whose process is still being found. */
  readonly #starting = new Map<JobId, AbortController>();
  /** Who runs a lease, by its token. */
  readonly #holders = new Map<string, RunnerProcess>();
  /** Who asked for a child, by the call's id. */
  readonly #askers = new Map<string, RunnerProcess>();
  readonly queries = new Map<string, Query>();

  constructor(options: DispatchOptions, fleet: Fleet) {
    this.#options = options;
    this.#fleet = fleet;
    this.calls = new Calls(fleet, options.registry, (use) => this.#workDirOf(use.lease.job));
  }

  attach(loop: Loop): void {
    this.#loop = loop;
  }

  readonly perform = (decision: Decision): void => {
    const { hub, log } = this.#options;
    switch (decision.do) {
      case "write":
        return;
      case "publish":
        hub.wake(decision.event.job);
        return;
      case "accepted":
        this.#options.accepted(decision.row.id, null);
        return;
      case "refuse":
        this.#options.accepted(decision.job, decision.error);
        return;
      case "prepare": {
        const live = this.#options.state.jobs.get(decision.job);
        if (live !== undefined) this.#options.prepare(live.row);
        return;
      }
      case "start":
        void this.#start(decision.lane, decision.lease);
        return;
      case "cancel": {
        this.#starting.get(decision.lease.job)?.abort();
        this.#holders.get(decision.lease.token)?.send({ type: "cancel", job: decision.lease.job });
        return;
      }
      case "kill":
        this.#holders.get(decision.lease.token)?.kill("it did not stop when its job was cancelled");
        return;
      case "answer":
        void this.#answer(decision.call, decision.child);
        return;
      case "settled":
        log("info", "job_settled", {
          jobId: decision.row.id,
          operation: decision.row.operation,
          state: decision.row.state,
          code: decision.row.error?.code,
        });
        void this.#cleanUp(decision.row);
        return;
      case "stale":
        log("warn", "stale_lease_ignored", {
          jobId: decision.lease.job,
          attempt: decision.lease.attempt,
          what: decision.what,
        });
        return;
    }
  };

  /** What a process says. Leases are checked by the scheduler, where they are known. */
  readonly heard = (from: RunnerProcess, message: FromRunner): void => {
    if (message.type === "failed" || message.type === "called")
      this.#notice(from, message.error as ErrorBody | undefined);
    switch (message.type) {
      case "progress":
        // Nobody watches a query.
        if (this.queries.has(message.lease.token)) return;
        this.#post({ type: "progress", lease: message.lease, progress: message.progress });
        return;
      case "log":
        if (message.lease !== null && !this.queries.has(message.lease.token)) {
          this.#post({
            type: "log",
            lease: message.lease,
            level: message.level,
            event: message.event,
            fields: message.fields,
          });
          return;
        }
        this.#options.log(message.level, message.event, { pid: from.pid, ...message.fields });
        return;
      case "done":
      case "failed":
        this.#finished(from, message);
        return;
      case "use":
        void this.calls.use(from, message);
        return;
      case "called":
        this.calls.called(message);
        return;
      case "abandon":
        this.#askers.delete(message.call);
        this.calls.abandon(message.call);
        return;
      case "submit":
        this.#askers.set(message.call, from);
        void this.#submitChild(message);
        return;
      case "ready":
      case "meeting":
      case "dying":
      case "resident":
      case "beat":
        return;
    }
  };

  /** A promise that never settled, in this very process: those who only waited for it pass its error on. */
  #notice(from: RunnerProcess, error: ErrorBody | undefined): void {
    if (error?.code !== "plugin_timeout" || error.data?.["process"] !== from.pid) return;
    this.#fleet.hung(from, String(error.data["plugin"]), error.message);
  }

  readonly gone = (from: RunnerProcess, exit: { reason: string; expected: boolean }): void => {
    this.calls.gone(from, exit.reason);
    for (const [call, asker] of [...this.#askers]) if (asker === from) this.#askers.delete(call);
    for (const lease of from.jobs.values()) {
      this.#holders.delete(lease.token);
      const query = this.queries.get(lease.token);
      if (query !== undefined)
        query.fail({ code: "worker_failed", message: `the process that worked on this ended (${exit.reason})` });
      else this.#post({ type: "lost", lease, death: !exit.expected, reason: exit.reason });
    }
    from.jobs.clear();
  };

  /** Tells a process that asked for a child why there is none. */
  refuseChild(call: string, error: ErrorBody): void {
    this.#askers.get(call)?.send({ type: "submitted", call, error: error as never });
    this.#askers.delete(call);
  }

  /** The answer of a query that a job asked for as if it were a child. */
  answerQuery(call: string, output: unknown, seconds: number): void {
    this.#askers
      .get(call)
      ?.send({ type: "submitted", call, result: { jobId: "", reused: false, output, seconds, peakBytes: 0 } });
    this.#askers.delete(call);
  }

  async #start(lane: Lane, lease: Lease): Promise<void> {
    const live = this.#options.state.jobs.get(lease.job);
    if (live === undefined) return;
    const abort = new AbortController();
    this.#starting.set(lease.job, abort);
    try {
      const workDir = this.#options.folders.open(live.row.workKey);
      if (lane === DAEMON_LANE) return await this.#runHere(live.row, lease, workDir, abort.signal);
      const process = await this.#fleet.acquire(this.#placeOf(lane, live.row), abort.signal);
      if (abort.signal.aborted || live.lease?.token !== lease.token) {
        this.#fleet.release(process);
        abort.signal.throwIfAborted();
        return;
      }
      process.jobs.set(lease.job, lease);
      this.#holders.set(lease.token, process);
      process.send({ type: "run", lease, operation: live.row.operation, input: { ...live.row.body }, workDir });
    } catch (error) {
      if (abort.signal.aborted) this.#post({ type: "lost", lease, death: false, reason: "cancelled" });
      else {
        const known = toWaverError(error);
        // A stopping daemon leaves the job for the next one.
        if (known.code === "daemon_unreachable")
          this.#post({ type: "lost", lease, death: false, reason: known.message });
        else await this.#failed(lease, known.toBody(), 0);
      }
    } finally {
      this.#starting.delete(lease.job);
    }
  }

  /** The lane, or the ranks that this job of the device asks for. */
  #placeOf(lane: Lane, { operation, body }: JobRow): Lane {
    if (lane !== DEVICE_LANE) return lane;
    const found = this.#options.registry().operations.get(operation);
    const ranks = found?.declared?.ranks?.(found.parse(body).input) ?? null;
    return ranks === null ? lane : ranksLane(ranks);
  }

  async #runHere(row: JobRow, lease: Lease, workDir: string, signal: AbortSignal): Promise<void> {
    const output = await this.#options.inDaemon.execute(row.operation, row.body, {
      signal,
      workDir,
      progress: (progress) => this.#post({ type: "progress", lease, progress }),
      log: (level, event, fields) => this.#post({ type: "log", lease, level, event, fields }),
      use: alone,
      submit: alone,
    });
    this.#post({ type: "finished", lease, outcome: { ok: true, output }, peakBytes: 0 });
  }

  #finished(from: RunnerProcess, message: Extract<FromRunner, { type: "done" | "failed" }>): void {
    const { lease, peakBytes } = message;
    // Not the job's fault: it goes on with new ranks. The end of this process tells the scheduler so.
    if (message.type === "failed" && message.error.code === "rank_lost" && from.group !== null) {
      from.kill(message.error.message);
      return;
    }
    if (from.jobs.get(lease.job)?.token === lease.token) from.jobs.delete(lease.job);
    this.#holders.delete(lease.token);
    const query = this.queries.get(lease.token);
    if (query !== undefined) {
      if (message.type === "done") query.done(message.output);
      else query.fail(message.error as ErrorBody);
    } else if (message.type === "failed" && message.error.code === "cancelled" && from.isStopping) {
      // Not the job's end but the process's: the job goes on elsewhere.
      this.#post({ type: "lost", lease, death: false, reason: "its process was stopped" });
    } else {
      if (message.type === "done")
        this.#post({ type: "finished", lease, outcome: { ok: true, output: message.output }, peakBytes });
      else void this.#failed(lease, message.error as ErrorBody, peakBytes);
    }
    if (message.type === "done") this.#fleet.healthy(from);
    this.#fleet.release(from);
  }

  async #failed(lease: Lease, error: ErrorBody, peakBytes: number): Promise<void> {
    const noRoom = error.code === "disk_full" && (await this.#options.isFull());
    this.#post({ type: "finished", lease, outcome: { ok: false, error }, peakBytes, noRoom });
  }

  async #submitChild(message: Extract<FromRunner, { type: "submit" }>): Promise<void> {
    try {
      await this.#options.submitChild(message.lease, message.call, message.operation, message.input);
    } catch (error) {
      this.refuseChild(message.call, toWaverError(error).toBody());
    }
  }

  async #answer(call: string, child: JobId): Promise<void> {
    const asker = this.#askers.get(call);
    this.#askers.delete(call);
    if (asker === undefined) return;
    const row = await this.#options.store.job(child);
    if (row?.state === "done")
      asker.send({
        type: "submitted",
        call,
        result: {
          jobId: row.id,
          reused: row.reused,
          output: row.output ?? null,
          seconds: row.seconds,
          peakBytes: row.peakBytes,
        },
      });
    else
      asker.send({
        type: "submitted",
        call,
        error: (row?.error ?? { code: "job_lost", message: `the child job ${child} is not in the journal` }) as never,
      });
  }

  async #cleanUp(row: JobRow): Promise<void> {
    const { store, folders, log } = this.#options;
    try {
      // Equal work may come back to what a failed job left; nobody can come back to a folder named after the job itself.
      if (row.state !== "done") return row.workKey === row.id ? await folders.remove(row.workKey) : undefined;
      if (row.reused || row.parent !== null) return;
      const pending = [row];
      for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
        await folders.remove(next.workKey);
        pending.push(...(await store.list({ parent: next.id, limit: 10_000 })));
      }
    } catch (error) {
      log("warn", "work_folder_kept", { jobId: row.id, error });
    }
  }

  #workDirOf(job: JobId): string {
    const live = this.#options.state.jobs.get(job);
    return this.#options.folders.open(live?.row.workKey ?? job);
  }

  #post(event: Parameters<Loop["post"]>[0]): void {
    this.#loop?.post(event);
  }
}

/** Work in the daemon itself asks no other process for anything. */
export const alone = (): Promise<never> =>
  Promise.reject(new WaverError("internal", "an operation of the daemon starts no other work"));
