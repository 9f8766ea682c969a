/**
 * The scheduler: one step takes an event and the time and says what to write and what to do. It reads no clock, no
 * disk and no process, so a seeded simulation can run it (test/e2e/scheduler.test.ts). It changes `state` in place.
 *
 * Invariants: a terminal state is final; one live lease a job; a lane never has more active jobs than its size;
 * two running jobs never share a work folder; every queued job is started, finished or failed in the end.
 */
import type { ErrorBody } from "../../plugins/errors.ts";
import type { Lease } from "../runner/protocol.ts";
import { isTerminal, type JobEvent, type JobId, type JobState } from "../wire.ts";
import { backoffMs, CANCELLED, crashLoop, heldError, MAX_DEATHS, MAX_PAUSES, refusal } from "./failures.ts";
import type { Clock, Decision, Found, Lane, Live, SchedulerEvent, SchedulerState } from "./state.ts";
import type { JobChange, JobRow } from "./store.ts";
import { whoIsNext } from "./turns.ts";

/** A job that does not answer a cancel within this time loses its process. */
const CANCEL_GRACE_MS = 10_000;
const MAX_RECENT = 256;
/** Log lines of one job that are kept in one life of the daemon. */
const MAX_LOGGED = 10_000;

/** Takes a job of the journal over at start. A job that was running has lost its process: it is queued for its next attempt. */
export function restore(state: SchedulerState, found: Found, clock: Clock): Decision[] {
  const { row, lane, prepared, lastSeq } = found;
  const step = new Step(state, clock);
  const live = step.add(row, lane, prepared, lastSeq);
  if (row.state === "running") step.requeue(live, 0);
  if (row.cancelRequested) step.settle(live, "cancelled", { error: CANCELLED });
  else if (!prepared) step.decide({ do: "prepare", job: row.id });
  return step.decisions;
}

export function advance(state: SchedulerState, event: SchedulerEvent, clock: Clock): Decision[] {
  const step = new Step(state, clock);
  step.take(event);
  if (event.type !== "progress" && event.type !== "log") step.fill();
  return step.decisions;
}

class Step {
  readonly decisions: Decision[] = [];
  readonly #state: SchedulerState;
  readonly #clock: Clock;

  constructor(state: SchedulerState, clock: Clock) {
    this.#state = state;
    this.#clock = clock;
  }

  decide = (decision: Decision): number => this.decisions.push(decision);

  take(event: SchedulerEvent): void {
    switch (event.type) {
      case "submit":
        this.#submit(event);
        return;
      case "join":
        this.#join(event.lease, event.call, event.child);
        return;
      case "prepared":
        this.#prepared(event);
        return;
      case "progress": {
        const live = this.#holder(event.lease, "progress");
        if (live === null) return;
        const { stage, done } = event.progress;
        if (done > (live.row.high[stage] ?? 0)) {
          live.advanced = true;
          live.row.high = { ...live.row.high, [stage]: done };
        }
        live.row.progress = event.progress;
        this.#event(live, { type: "progress", progress: event.progress });
        return;
      }
      case "log": {
        const live = this.#holder(event.lease, "log");
        if (live === null || live.logged > MAX_LOGGED) return;
        live.logged += 1;
        if (live.logged > MAX_LOGGED)
          this.#event(live, { type: "log", level: "warn", event: "log_is_full", fields: { lines: MAX_LOGGED } });
        else this.#event(live, { type: "log", level: event.level, event: event.event, fields: { ...event.fields } });
        return;
      }
      case "finished": {
        const live = this.#holder(event.lease, "finished");
        if (live === null) return;
        const { outcome, peakBytes } = event;
        if (!outcome.ok && event.noRoom === true && !live.row.cancelRequested)
          this.#pause(live, outcome.error, peakBytes);
        else if (outcome.ok) this.settle(live, "done", { output: outcome.output, peakBytes });
        else if (outcome.error.code === "cancelled" && live.row.cancelRequested)
          this.settle(live, "cancelled", { error: CANCELLED, peakBytes });
        else this.settle(live, "failed", { error: outcome.error, peakBytes });
        return;
      }
      case "lost": {
        const live = this.#holder(event.lease, "lost");
        if (live !== null) this.#lost(live, event.death, event.reason);
        return;
      }
      case "cancel": {
        const live = this.#state.jobs.get(event.job);
        if (live !== undefined) this.#cancel(live);
        return;
      }
      case "broken": {
        const live = this.#state.jobs.get(event.job);
        if (live?.row.state === "queued") this.settle(live, "failed", { error: event.error });
        return;
      }
      case "room":
        for (const live of this.#state.jobs.values()) live.held = false;
        return;
      case "drain":
        this.#state.draining = true;
        return;
      case "tick":
        for (const live of this.#state.jobs.values())
          if (live.lease !== null && this.#clock.mono >= live.killAt) {
            live.killAt = Number.POSITIVE_INFINITY;
            this.decide({ do: "kill", lease: live.lease });
          }
        return;
    }
  }

  add(row: JobRow, lane: Lane, prepared: boolean, lastSeq: number): Live {
    const live: Live = {
      row,
      lane,
      lastSeq,
      prepared,
      notBefore: 0,
      lease: null,
      startedAt: 0,
      killAt: Number.POSITIVE_INFINITY,
      // The journal keeps why: a daemon that was started again waits for room as its forerunner did.
      held: row.state === "queued" && row.error?.code === "disk_full",
      pauses: 0,
      logged: 0,
      advanced: false,
      waiting: [],
      answer: null,
    };
    this.#state.jobs.set(row.id, live);
    return live;
  }

  /** Starts whatever may start. */
  fill(): void {
    for (const live of whoIsNext(this.#state, this.#clock.mono)) {
      if (live.answer === null) this.#start(live);
      else {
        this.#deliver(live, live.answer.call, live.answer.child);
        live.answer = null;
      }
    }
  }

  requeue(live: Live, delay: number): void {
    live.lease = null;
    live.waiting.length = 0;
    live.answer = null;
    live.killAt = Number.POSITIVE_INFINITY;
    live.notBefore = this.#clock.mono + delay;
    this.#change(live, {
      state: "queued",
      attempt: live.row.attempt + 1,
      deaths: live.row.deaths,
      high: live.row.high,
      seconds: live.row.seconds,
    });
    this.#stateEvent(live);
  }

  settle(
    live: Live,
    state: JobState,
    set: { output?: unknown; error?: ErrorBody; peakBytes?: number; reused?: boolean },
  ): void {
    this.#spend(live);
    const { row } = live;
    live.lease = null;
    this.#change(live, {
      state,
      finishedAt: this.#clock.wall,
      seconds: row.seconds,
      high: row.high,
      ...(row.progress === null ? {} : { progress: row.progress }),
      ...set,
    });
    if (state === "done") {
      this.decide({ do: "write", write: { kind: "releaseChildren", parent: row.id } });
      if (row.reuseKey !== null) this.#remember(row.reuseKey, row);
    }
    this.#stateEvent(live);
    this.#state.jobs.delete(row.id);
    this.decide({ do: "settled", row });
    for (const other of [...this.#state.jobs.values()]) {
      // Children of a job that has ended are wanted by nobody.
      if (other.row.parent === row.id) this.#cancel(other);
      for (const wait of other.waiting.filter((each) => each.child === row.id))
        this.#childSettled(other, wait.call, row.id);
      // Equal work that waited for this one: its identity is looked up again, and is now found.
      if (
        state === "done" &&
        other.row.state === "queued" &&
        other.prepared &&
        row.reuseKey !== null &&
        other.row.reuseKey === row.reuseKey
      ) {
        other.prepared = false;
        this.decide({ do: "prepare", job: other.row.id });
      }
    }
  }

  #submit(event: Extract<SchedulerEvent, { type: "submit" }>): void {
    const { row, child } = event;
    const parent = child === undefined ? null : this.#holder(child.lease, "submit");
    if (child !== undefined && parent === null) {
      this.decide({
        do: "refuse",
        job: row.id,
        error: { code: "stale_lease", message: "this attempt of the job is over" },
      });
      return;
    }
    if (child === undefined) {
      const error = refusal(this.#state);
      if (error !== null) {
        this.decide({ do: "refuse", job: row.id, error });
        return;
      }
    }
    const live = this.add(row, event.lane, event.prepared, 0);
    this.decide({ do: "write", write: { kind: "insert", job: { ...row } } });
    this.#stateEvent(live);
    this.decide({ do: "accepted", row });
    if (child !== undefined && parent !== null) parent.waiting.push({ call: child.call, child: row.id });
    if (!event.prepared) this.decide({ do: "prepare", job: row.id });
  }

  #join(lease: Lease, call: string, child: JobId): void {
    const parent = this.#holder(lease, "submit");
    if (parent === null) return;
    if (this.#state.jobs.has(child)) parent.waiting.push({ call, child });
    else this.#deliver(parent, call, child);
  }

  #prepared(event: Extract<SchedulerEvent, { type: "prepared" }>): void {
    const live = this.#state.jobs.get(event.job);
    if (live === undefined || live.row.state !== "queued" || live.prepared) return;
    live.prepared = true;
    const find = (id: JobId | null): Live | undefined => (id === null ? undefined : this.#state.jobs.get(id));
    const key = event.reuseKey;
    if (key === null) return;
    this.#change(live, { reuseKey: key, workKey: key });
    const recent = this.#state.recent.get(key);
    const earlier = event.reuse ?? (recent !== undefined && recent.at >= event.looked ? recent.row : null);
    if (earlier !== null) {
      this.settle(live, "done", { output: earlier.output, peakBytes: earlier.peakBytes, reused: true });
      return;
    }
    for (let at = find(live.row.parent); at !== undefined; at = find(at.row.parent))
      if (at.row.workKey === key) {
        this.settle(live, "failed", {
          error: {
            code: "conflict",
            message: `${live.row.operation} asked for itself with the same input`,
            data: { ancestor: at.row.id },
          },
        });
        return;
      }
  }

  #remember(key: string, row: JobRow): void {
    const { recent } = this.#state;
    recent.delete(key);
    recent.set(key, { row, at: this.#clock.mono });
    const [oldest] = recent.keys();
    if (recent.size > MAX_RECENT && oldest !== undefined) recent.delete(oldest);
  }

  #start(live: Live): void {
    const lease: Lease = { job: live.row.id, attempt: live.row.attempt, token: this.#clock.token() };
    live.lease = lease;
    live.startedAt = this.#clock.mono;
    live.advanced = false;
    this.#change(live, { state: "running", startedAt: live.row.startedAt ?? this.#clock.wall, error: null });
    this.#stateEvent(live);
    this.decide({ do: "start", job: live.row.id, lane: live.lane, lease });
  }

  /** Back to the queue until there is room, with its work folder and so with all it had done. */
  #pause(live: Live, error: ErrorBody, peakBytes: number): void {
    this.#spend(live);
    live.pauses = live.advanced ? 1 : live.pauses + 1;
    if (live.pauses >= MAX_PAUSES) {
      this.settle(live, "failed", { error, peakBytes });
      return;
    }
    live.held = true;
    this.#change(live, { error: heldError(error) });
    this.requeue(live, 0);
  }

  #lost(live: Live, death: boolean, reason: string): void {
    this.#spend(live);
    if (live.row.cancelRequested) {
      this.settle(live, "cancelled", { error: CANCELLED });
      return;
    }
    const deaths = live.advanced ? 0 : live.row.deaths;
    live.row.deaths = death ? deaths + 1 : deaths;
    if (live.row.deaths >= MAX_DEATHS) {
      this.settle(live, "failed", { error: crashLoop(live.row, reason) });
      return;
    }
    this.requeue(live, death ? backoffMs(live.row.deaths, this.#clock.jitter()) : 0);
  }

  #cancel(live: Live): void {
    if (isTerminal(live.row.state)) return;
    if (live.lease === null) {
      this.settle(live, "cancelled", { error: CANCELLED });
      return;
    }
    if (live.row.cancelRequested) return;
    this.#change(live, { cancelRequested: true });
    live.killAt = this.#clock.mono + CANCEL_GRACE_MS;
    this.decide({ do: "cancel", lease: live.lease });
    for (const other of [...this.#state.jobs.values()]) if (other.row.parent === live.row.id) this.#cancel(other);
  }

  #childSettled(parent: Live, call: string, child: JobId): void {
    const at = parent.waiting.findIndex((wait) => wait.call === call);
    if (parent.lease === null || at < 0) return;
    // The last answer makes the parent active again, so it waits for room in the lane; a cancelled parent must not.
    if (parent.waiting.length === 1 && !parent.row.cancelRequested) {
      parent.answer = { call, child };
      parent.waiting.length = 0;
    } else {
      parent.waiting.splice(at, 1);
      this.#deliver(parent, call, child);
    }
  }

  #deliver(parent: Live, call: string, child: JobId): void {
    if (parent.lease !== null) this.decide({ do: "answer", lease: parent.lease, call, child });
  }

  /** The job that this lease still holds; a stale lease is reported and otherwise ignored. */
  #holder(lease: Lease, what: string): Live | null {
    const live = this.#state.jobs.get(lease.job);
    if (live?.lease != null && live.lease.attempt === lease.attempt && live.lease.token === lease.token) return live;
    this.decide({ do: "stale", lease, what });
    return null;
  }

  #spend(live: Live): void {
    if (live.startedAt > 0) live.row.seconds += (this.#clock.mono - live.startedAt) / 1000;
    live.startedAt = 0;
  }

  #change(live: Live, set: JobChange): void {
    Object.assign(live.row, set);
    this.decide({ do: "write", write: { kind: "update", id: live.row.id, set } });
  }

  #stateEvent(live: Live): void {
    const { row } = live;
    this.#event(live, {
      type: "state",
      state: row.state,
      attempt: row.attempt,
      ...(row.reused ? { reused: true } : {}),
      ...(row.error === null ? {} : { error: row.error as never }),
      ...(row.state === "done" ? { output: row.output } : {}),
    });
  }

  #event(live: Live, event: EventBody): void {
    live.lastSeq += 1;
    const whole = { ...event, seq: live.lastSeq, time: this.#clock.wall, job: live.row.id } as JobEvent;
    this.decide({ do: "write", write: { kind: "event", event: whole } });
    this.decide({ do: "publish", event: whole });
  }
}

type EventBody = {
  [T in JobEvent["type"]]: Omit<Extract<JobEvent, { type: T }>, "seq" | "time" | "job">;
}[JobEvent["type"]];
