/**
 * What the job system needs from a database: one durable transaction a batch, and a few reads. The embedded driver is
 * `journal.ts`; a PostgreSQL driver has to pass the same suite.
 */
import type { ErrorBody } from "../../plugins/errors.ts";
import type { JobEvent, JobId, JobState, JobView, Progress } from "../wire.ts";

/** One job as the journal keeps it. `JobView` is what clients see of it. */
export interface JobRow {
  readonly id: JobId;
  /** Order of acceptance. A child takes its parent's, so that it runs before work accepted later. */
  readonly age: number;
  readonly operation: string;
  readonly priority: number;
  readonly createdAt: string;
  readonly parent: JobId | null;
  readonly idempotencyKey: string | null;
  /** Digest of operation and body: equal keys with other bodies are a conflict. */
  readonly bodyHash: string;
  readonly body: Readonly<Record<string, unknown>>;
  /** Identity of a child below its parent: a restarted parent that asks again gets the same child. */
  readonly childKey: string | null;
  state: JobState;
  attempt: number;
  /** Attempts in a row that ended with the death of the process and without progress. */
  deaths: number;
  /** Furthest `done` of each stage over all attempts: what counts as progress. */
  high: Readonly<Record<string, number>>;
  cancelRequested: boolean;
  startedAt: string | null;
  finishedAt: string | null;
  /** Identity of the work itself (operation, body, content read, plugins); null when the work always runs. */
  reuseKey: string | null;
  /** Name of the job's folder below <home>/work: equal unfinished work continues in it. */
  workKey: string;
  reused: boolean;
  output: unknown;
  error: ErrorBody | null;
  progress: Progress | null;
  peakBytes: number;
  /** Seconds of work, over all attempts. */
  seconds: number;
}

export type JobChange = Partial<
  Pick<
    JobRow,
    | "state"
    | "attempt"
    | "deaths"
    | "high"
    | "cancelRequested"
    | "startedAt"
    | "finishedAt"
    | "reuseKey"
    | "workKey"
    | "reused"
    | "output"
    | "error"
    | "progress"
    | "peakBytes"
    | "seconds"
  >
>;

export type Write =
  | { readonly kind: "insert"; readonly job: JobRow }
  | { readonly kind: "update"; readonly id: JobId; readonly set: JobChange }
  | { readonly kind: "event"; readonly event: JobEvent }
  /** The parent is done: a later, equal parent starts its children afresh. */
  | { readonly kind: "releaseChildren"; readonly parent: JobId };

export interface JobFilter {
  readonly state?: JobState | undefined;
  readonly operation?: string | undefined;
  readonly parent?: JobId | undefined;
  readonly limit: number;
}

/** What of the past is kept. Nothing of a job that is not terminal, or whose parent is not, is ever pruned. */
export interface Retention {
  /** Jobs, the newest. */
  readonly jobs: number;
  /** Progress of jobs that ended before this ISO time is dropped; their states and log lines stay. */
  readonly progressBefore: string;
  /** Remembered digests of files: a cache. */
  readonly digests: number;
}

export interface JobStore extends AsyncDisposable {
  /** Drops a limited amount of what is older; call again while it says that there was something. */
  prune(retention: Retention): Promise<{ readonly jobs: number; readonly events: number }>;
  /** All writes or none; durable when the promise resolves. A rejection means that the disk can no longer be trusted. */
  commit(writes: readonly Write[]): Promise<void>;
  job(id: JobId): Promise<JobRow | null>;
  byIdempotencyKey(key: string): Promise<JobRow | null>;
  /** The newest done job of this identity. */
  byReuseKey(key: string): Promise<JobRow | null>;
  /** The newest job of this child identity that is not failed or cancelled. */
  byChildKey(key: string): Promise<JobRow | null>;
  /** Jobs that are not terminal, oldest first, each with the number of its last event. */
  live(): Promise<{ readonly row: JobRow; readonly lastSeq: number }[]>;
  /** Newest first. */
  list(filter: JobFilter): Promise<JobRow[]>;
  counts(): Promise<Record<JobState, number>>;
  lastAge(): Promise<number>;
  /** Events after `after`, in order. */
  events(id: JobId, after: number, limit: number): Promise<JobEvent[]>;
  /** Digest of a file that was hashed before and has not changed since (`stamp`: size, times, inode). */
  fileDigest(path: string, stamp: string): Promise<string | null>;
  rememberFileDigest(path: string, stamp: string, digest: string): Promise<void>;
}

type Accepted = Pick<
  JobRow,
  "id" | "age" | "operation" | "priority" | "parent" | "idempotencyKey" | "bodyHash" | "body" | "childKey"
>;

/** A job at the moment of its acceptance. */
export const newRow = (accepted: Accepted): JobRow => ({
  ...accepted,
  createdAt: new Date().toISOString(),
  state: "queued",
  attempt: 1,
  deaths: 0,
  high: {},
  cancelRequested: false,
  startedAt: null,
  finishedAt: null,
  reuseKey: null,
  workKey: accepted.childKey ?? accepted.id,
  reused: false,
  output: null,
  error: null,
  progress: null,
  peakBytes: 0,
  seconds: 0,
});

export const toView = (row: JobRow): JobView => ({
  id: row.id,
  operation: row.operation,
  state: row.state,
  priority: row.priority,
  attempt: row.attempt,
  createdAt: row.createdAt,
  startedAt: row.startedAt,
  finishedAt: row.finishedAt,
  parent: row.parent,
  reused: row.reused,
  input: { ...row.body },
  ...(row.output === null || row.output === undefined ? {} : { output: row.output }),
  ...(row.error === null ? {} : { error: row.error as NonNullable<JobView["error"]> }),
  ...(row.progress === null ? {} : { progress: row.progress }),
  peakBytes: row.peakBytes,
  seconds: row.seconds,
});
