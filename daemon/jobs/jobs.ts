/** The job system as the rest of the daemon sees it: submit, ask, look, cancel, follow. */
import { randomInt } from "node:crypto";
import { type ErrorBody, toWaverError, WaverError } from "../../plugins/errors.ts";
import type { Config } from "../config.ts";
import type { DaemonLog } from "../log.ts";
import { outOfService } from "../plugins/quarantine.ts";
import type { RegisteredOperation, Registry } from "../plugins/registry.ts";
import type { Lease } from "../runner/protocol.ts";
import { isTerminal, type JobEvent, type JobId, type JobView, PREVIEW, type Status } from "../wire.ts";
import { laneOfPlace } from "./calls.ts";
import { Dispatch, type InDaemon } from "./dispatch.ts";
import { WorkFolders } from "./folders.ts";
import { EventHub } from "./hub.ts";
import { bodyHash, childKey } from "./identity.ts";
import { clock, Loop } from "./loop.ts";
import type { ProcessProgram } from "./process.ts";
import { Queries } from "./queries.ts";
import { Reuse } from "./reuse.ts";
import { Room } from "./room.ts";
import { restore } from "./scheduler.ts";
import { newState, type SchedulerState } from "./state.ts";
import { type JobFilter, type JobRow, type JobStore, newRow, toView } from "./store.ts";
import { DAEMON_LANE, Fleet, WORKER_LANE } from "./supervise.ts";
import { Upkeep } from "./upkeep.ts";

export interface JobsOptions {
  readonly config: Config;
  readonly registry: () => Registry;
  readonly store: JobStore;
  readonly program: ProcessProgram;
  readonly pidFolder: string;
  readonly log: DaemonLog;
  readonly queueLimit: number;
  /** Whether an artefact or file that an earlier result names is still there. */
  exists(written: string): Promise<boolean>;
  quarantine(plugin: string, reason: string): void;
  quarantined(): ReadonlyMap<string, string>;
  readonly inDaemon: InDaemon;
  fatal(error: unknown): void;
}

export interface Submission {
  readonly operation: string;
  readonly body: unknown;
  readonly idempotencyKey?: string;
  readonly priority?: number;
}

/** A preview is a few hundred kilobytes at most. */
const MAX_PREVIEW = 2 << 20;

export class Jobs {
  readonly #options: JobsOptions;
  readonly #state: SchedulerState;
  readonly #fleet: Fleet;
  readonly #dispatch: Dispatch;
  readonly #loop: Loop;
  readonly #folders: WorkFolders;
  readonly #hub = new EventHub();
  readonly #answers = new Map<JobId, (refusal: ErrorBody | null) => void>();
  readonly #locks = new Map<string, Promise<unknown>>();
  readonly #closing = new AbortController();
  readonly #queries: Queries;
  readonly #reuse: Reuse;
  readonly #room: Room;
  readonly #upkeep: Upkeep;
  #age = 0;
  #stopped: Promise<void> | null = null;

  constructor(options: JobsOptions) {
    const { config, store, log, registry } = options;
    this.#options = options;
    this.#state = newState({
      sizeOf: (lane) => (lane === WORKER_LANE || lane === DAEMON_LANE ? config.workers : 1),
      queueLimit: options.queueLimit,
    });
    this.#folders = new WorkFolders(config.home);
    this.#room = new Room(config.home);
    this.#reuse = new Reuse({ ...options, signal: this.#closing.signal, found: (event) => this.#loop.post(event) });
    this.#fleet = new Fleet({
      program: options.program,
      device: config.device,
      workers: config.workers,
      keepAliveMs: config.keepAlive * 1000,
      pidFolder: options.pidFolder,
      log,
      listener: {
        message: (from, message) => this.#dispatch.heard(from, message),
        gone: (from, exit) => this.#dispatch.gone(from, exit),
      },
      quarantine: options.quarantine,
      quarantined: options.quarantined,
    });
    this.#dispatch = new Dispatch(
      {
        state: this.#state,
        store,
        registry,
        folders: this.#folders,
        hub: this.#hub,
        log,
        inDaemon: options.inDaemon,
        prepare: (row) => this.#reuse.prepare(row),
        submitChild: (lease, call, operation, input) => this.#submitChild(lease, call, operation, input),
        isFull: () => this.#room.isLow(),
        accepted: (job, refusal) => {
          this.#answers.get(job)?.(refusal);
          this.#answers.delete(job);
        },
      },
      this.#fleet,
    );
    this.#loop = new Loop(this.#state, store, this.#dispatch.perform, {
      makeRoom: () => this.#room.release(),
      waiting: (ms) => options.log("warn", "journal_waits_for_room", { ms }),
      fatal: options.fatal,
    });
    this.#dispatch.attach(this.#loop);
    this.#queries = new Queries({ ...options, fleet: this.#fleet, dispatch: this.#dispatch, folders: this.#folders });
    this.#upkeep = new Upkeep({
      store,
      room: this.#room,
      log,
      waits: () => [...this.#state.jobs.values()].some(({ held }) => held),
      roomIsBack: () => this.#loop.post({ type: "room" }),
    });
  }

  /** Takes over what an earlier daemon left: nothing that was accepted is forgotten. */
  async start(): Promise<void> {
    const { store, registry } = this.#options;
    await this.#room.check().catch((error: unknown) => this.#options.log("warn", "disk_low", { error }));
    this.#age = await store.lastAge();
    const found = await store.live();
    this.#folders.sweep(new Set(found.map(({ row }) => row.workKey)));
    for (const { row, lastSeq } of found) {
      const operation = registry().operations.get(row.operation);
      const lane = operation === undefined ? WORKER_LANE : laneOfPlace(operation.place);
      const prepared = operation?.declared?.reads === undefined;
      await this.#loop.carryOut(restore(this.#state, { row, lane, lastSeq, prepared }, clock()));
    }
    this.#loop.post({ type: "tick" });
    this.#upkeep.start();
  }

  /** Journals a job and answers when that is durable. The same key with the same body gives the same job. */
  async submit(request: Submission): Promise<{ view: JobView; created: boolean }> {
    const operation = this.operation(request.operation);
    if (operation.kind !== "job")
      throw new WaverError("invalid_input", `${operation.name} answers directly, it is not a job`);
    const { body } = operation.parse(request.body);
    await this.#room.check();
    const hash = bodyHash(operation.name, body);
    const key = request.idempotencyKey ?? null;
    const insert = (): Promise<JobRow> =>
      this.#insert(operation, {
        body,
        hash,
        idempotencyKey: key,
        priority: request.priority ?? 0,
        childKey: null,
        parent: null,
      });
    if (key === null) return { view: toView(await insert()), created: true };
    return this.#alone(`key ${key}`, async () => {
      const earlier = await this.#options.store.byIdempotencyKey(key);
      if (earlier === null) return { view: toView(await insert()), created: true };
      if (earlier.bodyHash !== hash)
        throw new WaverError("conflict", "this idempotency key was used for another request", {
          hint: "use a new key for a new request",
          data: { job: earlier.id },
        });
      return { view: toView(earlier), created: false };
    });
  }

  /** Asks a query operation. Not journalled: a lost answer is asked for again. */
  async query(name: string, body: unknown, signal: AbortSignal): Promise<unknown> {
    return this.#queries.ask(this.operation(name), newJobId(), body, AbortSignal.any([signal, this.#closing.signal]));
  }

  operation(name: string): RegisteredOperation {
    const found = this.#options.registry().operations.get(name);
    if (found !== undefined) return found;
    throw new WaverError("unknown_operation", `there is no operation ${JSON.stringify(name.slice(0, 64))}`, {
      hint:
        outOfService(this.#options.registry()) ??
        `known: ${[...this.#options.registry().operations.keys()].sort().join(", ")}`,
    });
  }

  async job(id: JobId): Promise<JobView> {
    const row = await this.#options.store.job(id);
    if (row === null) throw new WaverError("not_found", `there is no job ${id}`);
    return this.#view(row);
  }

  /** A running job's newest preview, or null. */
  async preview(id: JobId): Promise<Uint8Array<ArrayBuffer> | null> {
    const row = await this.#options.store.job(id);
    if (row === null) throw new WaverError("not_found", `there is no job ${id}`);
    // While it runs, its work key may be newer than the journal's.
    const { workKey } = this.#state.jobs.get(id)?.row ?? row;
    return this.#folders.read(workKey, PREVIEW, MAX_PREVIEW);
  }

  async list(filter: JobFilter): Promise<JobView[]> {
    return (await this.#options.store.list(filter)).map((row) => this.#view(row));
  }

  /** Asks a job to end. Answers at once: a running job is cancelled when its process says so, or is killed. */
  async cancel(id: JobId): Promise<JobView> {
    await this.job(id);
    this.#loop.post({ type: "cancel", job: id });
    await this.#loop.idle();
    return this.job(id);
  }

  async events(id: JobId, after: number, signal: AbortSignal): Promise<AsyncGenerator<JobEvent>> {
    await this.job(id);
    return this.#hub.read(this.#options.store, id, after, AbortSignal.any([signal, this.#closing.signal]));
  }

  /** Log lines after event `after`; `last` is where to go on. */
  async logs(id: JobId, after: number, limit: number): Promise<{ lines: JobEvent[]; last: number }> {
    await this.job(id);
    const lines: JobEvent[] = [];
    let last = after;
    while (lines.length < limit) {
      const page = await this.#options.store.events(id, last, 1_000);
      for (const event of page) {
        if (lines.length >= limit) break;
        last = event.seq;
        if (event.type === "log") lines.push(event);
      }
      if (page.length === 0) break;
    }
    return { lines, last };
  }

  async status(): Promise<Pick<Status, "jobs" | "runners" | "workers">> {
    return { jobs: await this.#options.store.counts(), ...this.#fleet.status() };
  }

  /** After the set of plugins changed: idle processes are replaced, and waiting jobs that need what is gone fail. */
  pluginsChanged(): void {
    this.#fleet.retire();
    for (const { row } of this.#state.jobs.values()) {
      if (row.state !== "queued") continue;
      try {
        this.operation(row.operation).parse(row.body);
      } catch (error) {
        const { code, message, hint } = toWaverError(error);
        const isGone = code === "unknown_operation" || code === "no_provider";
        const why = isGone ? `a plugin that ${row.operation} needs is no longer loaded: ${message}` : message;
        const body = {
          code: isGone ? "plugin_failed" : code,
          message: why,
          ...(hint === undefined ? {} : { hint }),
        } as const;
        this.#loop.post({ type: "broken", job: row.id, error: body });
      }
    }
  }

  /** Plugins were looked after by a person: earlier crashes count no more. */
  forgive(): void {
    this.#fleet.forgive();
  }

  /** Nothing new is taken or started; running jobs get `graceMs` to reach a unit boundary and stay resumable. */
  stop(graceMs: number): Promise<void> {
    this.#stopped ??= this.#stop(graceMs);
    return this.#stopped;
  }

  async #stop(graceMs: number): Promise<void> {
    this.#upkeep.stop();
    this.#loop.post({ type: "drain" });
    await this.#loop.idle();
    await this.#fleet.stop(graceMs);
    this.#closing.abort();
    await this.#loop.close();
  }

  #view(row: JobRow): JobView {
    const live = isTerminal(row.state) ? undefined : this.#state.jobs.get(row.id);
    return toView(live?.row.progress == null ? row : { ...row, progress: live.row.progress });
  }

  async #insert(
    operation: RegisteredOperation,
    job: {
      body: Readonly<Record<string, unknown>>;
      hash: string;
      idempotencyKey: string | null;
      priority: number;
      childKey: string | null;
      parent: { row: JobRow; lease: Lease; call: string } | null;
    },
  ): Promise<JobRow> {
    const id = newJobId();
    const { parent } = job;
    const row = newRow({
      id,
      age: parent === null ? ++this.#age : parent.row.age,
      operation: operation.name,
      priority: job.priority,
      parent: parent?.row.id ?? null,
      idempotencyKey: job.idempotencyKey,
      bodyHash: job.hash,
      body: job.body,
      childKey: job.childKey,
    });
    const answer = Promise.withResolvers<ErrorBody | null>();
    this.#answers.set(id, answer.resolve);
    this.#loop.post({
      type: "submit",
      row,
      lane: laneOfPlace(operation.place),
      prepared: operation.declared?.reads === undefined,
      ...(parent === null ? {} : { child: { lease: parent.lease, call: parent.call } }),
    });
    const refusal = await answer.promise;
    if (refusal !== null) throw WaverError.fromBody(refusal);
    return row;
  }

  async #submitChild(
    lease: Lease,
    call: string,
    name: string,
    input: Readonly<Record<string, unknown>>,
  ): Promise<void> {
    const parent = this.#state.jobs.get(lease.job);
    if (parent?.lease?.token !== lease.token) throw new WaverError("stale_lease", "this attempt of the job is over");
    const operation = this.operation(name);
    if (operation.kind === "query") {
      const started = performance.now();
      const output = await this.query(name, input, this.#closing.signal);
      return this.#dispatch.answerQuery(call, output, (performance.now() - started) / 1000);
    }
    const parsed = operation.parse(input);
    const { body } = parsed;
    const code = this.#reuse.code(operation, parsed);
    const key = childKey(parent.row.workKey, { operation: name, body, code });
    await this.#alone(`child ${key}`, async () => {
      const earlier = await this.#options.store.byChildKey(key);
      if (earlier !== null && (earlier.state !== "done" || (await this.#reuse.isIntact(operation, earlier.output))))
        return this.#loop.post({ type: "join", lease, call, child: earlier.id });
      await this.#insert(operation, {
        body,
        hash: bodyHash(name, body),
        idempotencyKey: null,
        priority: parent.row.priority,
        childKey: key,
        parent: { row: parent.row, lease, call },
      });
    });
  }

  /** Runs `work` while nothing else runs under this name. */
  async #alone<T>(name: string, work: () => Promise<T>): Promise<T> {
    const before = this.#locks.get(name) ?? Promise.resolve();
    const mine = before.then(work, work);
    this.#locks.set(name, mine);
    try {
      return await mine;
    } finally {
      if (this.#locks.get(name) === mine) this.#locks.delete(name);
    }
  }
}

const LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz";
const newJobId = (): JobId => `job_${Array.from({ length: 16 }, () => LETTERS[randomInt(36)]).join("")}` as JobId;
