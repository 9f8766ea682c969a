/**
 * What the scheduler knows: the jobs that are not terminal, the lanes they run in, and the words it speaks with the
 * rest of the daemon (events in, decisions out).
 */
import type { ErrorBody } from "../../plugins/errors.ts";
import type { Lease } from "../runner/protocol.ts";
import type { JobEvent, JobId, Progress } from "../wire.ts";
import type { JobRow, Write } from "./store.ts";

/** Where a job runs: `device`, `worker` or `plugin:NAME`. At most `size` jobs of a lane are active at once. */
export type Lane = string;

/** A child that a job waits for, and the call that wants the answer. */
export interface Waiting {
  readonly call: string;
  readonly child: JobId;
}

/** A job that is queued or running. */
export interface Live {
  readonly row: JobRow;
  readonly lane: Lane;
  lastSeq: number;
  /** False until its identity is known (files are still being hashed). */
  prepared: boolean;
  /** Monotonic time before which it is not started: backoff after a death. */
  notBefore: number;
  /** Held by the daemon, renewed by any sign of life of the process. */
  lease: Lease | null;
  /** Monotonic time of the present start. */
  startedAt: number;
  /** Monotonic time at which a cancelled job's process is killed. */
  killAt: number;
  /** Stopped by a full disk: it goes on when there is room. Its row says so with the error. */
  held: boolean;
  /** Times in a row that it was held without getting further. */
  pauses: number;
  /** Log lines so far: a plugin that never stops talking must not fill the journal. */
  logged: number;
  /** Progress was made beyond every earlier attempt. */
  advanced: boolean;
  /** Children that it waits for. While there is one, the job does not count against its lane. */
  readonly waiting: Waiting[];
  /** Answer of the last child, held until the lane has room for the job again. */
  answer: { readonly call: string; readonly child: JobId } | null;
}

export interface SchedulerState {
  readonly jobs: Map<JobId, Live>;
  /** Most active jobs of a lane. */
  readonly sizeOf: (lane: Lane) => number;
  readonly queueLimit: number;
  /** Jobs done lately, by identity: closes the gap between a look-up in the journal and its answer. */
  readonly recent: Map<string, { readonly row: JobRow; readonly at: number }>;
  draining: boolean;
}

/** A job of the journal, as the daemon finds it at start. */
export interface Found extends Pick<Live, "row" | "lane" | "prepared" | "lastSeq"> {}

/** Everything from outside that a step may use; a test gives its own. */
export interface Clock {
  /** Monotonic milliseconds. */
  readonly mono: number;
  /** ISO time, for display only. */
  readonly wall: string;
  /** A random fencing token. */
  token(): string;
  /** In [0, 1): spreads restarts. */
  jitter(): number;
}

export type Outcome =
  | { readonly ok: true; readonly output: unknown }
  | { readonly ok: false; readonly error: ErrorBody };

export type SchedulerEvent =
  /** `child` set: the job that asked, and its call. */
  | {
      readonly type: "submit";
      readonly row: JobRow;
      readonly lane: Lane;
      readonly prepared: boolean;
      readonly child?: { readonly lease: Lease; readonly call: string };
    }
  /** A running job asked for a child that exists already. */
  | { readonly type: "join"; readonly lease: Lease; readonly call: string; readonly child: JobId }
  /** `looked`: monotonic time of the look-up; what finished since is not in `reuse`. */
  | {
      readonly type: "prepared";
      readonly job: JobId;
      readonly looked: number;
      readonly reuseKey: string | null;
      readonly reuse: { readonly output: unknown; readonly peakBytes: number } | null;
    }
  | { readonly type: "progress"; readonly lease: Lease; readonly progress: Progress }
  | {
      readonly type: "log";
      readonly lease: Lease;
      readonly level: "info" | "warn" | "error";
      readonly event: string;
      readonly fields: Readonly<Record<string, unknown>>;
    }
  /** `noRoom`: it failed because the disk of the home is full, which is nobody's fault and passes. */
  | {
      readonly type: "finished";
      readonly lease: Lease;
      readonly outcome: Outcome;
      readonly peakBytes: number;
      readonly noRoom?: boolean;
    }
  /** There is room on the disk again. */
  | { readonly type: "room" }
  /** The process is gone. `death`: of its own, so that it counts towards crash_loop. */
  | { readonly type: "lost"; readonly lease: Lease; readonly death: boolean; readonly reason: string }
  | { readonly type: "cancel"; readonly job: JobId }
  /** A queued job can no longer be done: it fails instead of waiting for ever. */
  | { readonly type: "broken"; readonly job: JobId; readonly error: ErrorBody }
  | { readonly type: "drain" }
  | { readonly type: "tick" };

export type Decision =
  | { readonly do: "write"; readonly write: Write }
  | { readonly do: "publish"; readonly event: JobEvent }
  | { readonly do: "refuse"; readonly job: JobId; readonly error: ErrorBody }
  | { readonly do: "accepted"; readonly row: JobRow }
  | { readonly do: "prepare"; readonly job: JobId }
  | { readonly do: "start"; readonly job: JobId; readonly lane: Lane; readonly lease: Lease }
  | { readonly do: "cancel"; readonly lease: Lease }
  | { readonly do: "kill"; readonly lease: Lease }
  /** Tell the process that its child is terminal. */
  | { readonly do: "answer"; readonly lease: Lease; readonly call: string; readonly child: JobId }
  | { readonly do: "settled"; readonly row: JobRow }
  | { readonly do: "stale"; readonly lease: Lease; readonly what: string };

export const newState = (options: { sizeOf: (lane: Lane) => number; queueLimit: number }): SchedulerState => ({
  jobs: new Map(),
  recent: new Map(),
  sizeOf: options.sizeOf,
  queueLimit: options.queueLimit,
  draining: false,
});

/** Counts against its lane: running, and neither waiting for a child nor for room to go on after one. */
export const isActive = (live: Live): boolean =>
  live.row.state === "running" && live.waiting.length === 0 && live.answer === null;
