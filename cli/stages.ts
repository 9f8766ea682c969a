/** What is known of running jobs: the stage of each, since when, and how it ended. Fed with events, read by render.ts. */
import type { JobEvent, Progress } from "../daemon/wire.ts";
import type { Followed } from "./follow.ts";

export interface Stage {
  readonly progress: Progress;
  /** Milliseconds since 1970, by the daemon's clock. */
  readonly since: number;
  readonly until: number;
}

export interface Running {
  readonly job: Followed;
  readonly state: string;
  readonly since: number;
  readonly stage: Stage | null;
}

/** What an event changed, for whoever prints lines. */
export type Change =
  | { readonly kind: "progress"; readonly job: Followed; readonly stage: Stage }
  | { readonly kind: "stage-done"; readonly job: Followed; readonly stage: Stage; readonly complete: boolean }
  | {
      readonly kind: "job-done";
      readonly job: Followed;
      /** Stages that were told of. */
      readonly stages: number;
      readonly seconds: number;
      readonly state: string;
      readonly reused: boolean;
      readonly message: string | null;
    }
  | { readonly kind: "retry"; readonly job: Followed; readonly attempt: number }
  | { readonly kind: "log"; readonly job: Followed; readonly level: "info" | "warn" | "error"; readonly text: string };

interface Known {
  readonly job: Followed;
  state: string;
  since: number;
  current: Stage | null;
  /** In the order in which they began. A stage may be left and come back, as that of a file within that of all files. */
  readonly open: Map<string, Stage>;
  readonly told: Set<string>;
}

export class Stages {
  readonly #jobs = new Map<string, Known>();

  /** Jobs that have not ended, the asked-for one last. */
  get running(): readonly Running[] {
    const all = [...this.#jobs.values()].map(({ job, state, since, current }) => ({
      job,
      state,
      since,
      stage: current,
    }));
    return all.sort((a, b) => b.job.depth - a.job.depth);
  }

  take(event: JobEvent, job: Followed): Change[] {
    const at = Date.parse(event.time);
    if (event.type === "log")
      return [{ kind: "log", job, level: event.level, text: logText(event.event, event.fields) }];
    const known = this.#known(job, at);
    if (event.type === "progress") return this.#progress(known, event.progress, at);
    if (event.state === "queued" || event.state === "running") {
      known.state = event.state;
      // Loading before the first report belongs to the first stage.
      if (known.current === null) known.since = at;
      // Waiting, and not for its turn: a full disk.
      if (event.state === "queued" && event.error !== undefined)
        return [{ kind: "log", job, level: "warn", text: heldText(event.error) }];
      return event.state === "running" && event.attempt > 1 ? [{ kind: "retry", job, attempt: event.attempt }] : [];
    }
    this.#jobs.delete(job.id);
    const last = [...known.open.values()].map((stage) => closed(known, stage, event.state === "done"));
    const stages = known.told.size + last.length;
    const message = event.error === undefined ? null : event.error.message;
    const seconds = (at - known.since) / 1000;
    return [
      ...last,
      { kind: "job-done", job, stages, seconds, state: event.state, reused: event.reused === true, message },
    ];
  }

  #known(job: Followed, at: number): Known {
    const known = this.#jobs.get(job.id) ?? {
      job,
      state: "queued",
      since: at,
      current: null,
      open: new Map(),
      told: new Set(),
    };
    this.#jobs.set(job.id, known);
    return known;
  }

  #progress(known: Known, progress: Progress, at: number): Change[] {
    const before = known.current;
    const name = progress.stage;
    const earlier = before?.progress.stage === name ? before : known.open.get(name);
    const stage = { progress, since: earlier?.since ?? before?.until ?? known.since, until: at };
    known.state = "running";
    known.current = stage;
    const ended =
      before !== null && before.progress.stage !== name && isWhole(before) && known.open.delete(before.progress.stage);
    if (ended) known.told.add(before.progress.stage);
    // Told once: what comes back again and again would drown the rest.
    if (!known.told.has(name)) known.open.set(name, stage);
    return [...(ended ? [closed(known, before, true)] : []), { kind: "progress", job: known.job, stage }];
  }
}

const isWhole = ({ progress: { done, total } }: Stage): boolean => total > 0 && done >= total;

function closed({ job }: Known, stage: Stage, finished: boolean): Change {
  return { kind: "stage-done", job, stage, complete: finished || isWhole(stage) };
}

const heldText = ({ message, hint }: { message: string; hint?: string | undefined }): string =>
  `paused: ${message}${hint === undefined ? "" : `; ${hint}`}`;

function logText(event: string, fields: Readonly<Record<string, unknown>>): string {
  const { message, ...rest } = fields;
  const shown = Object.entries(rest).map(
    ([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  return [typeof message === "string" ? message : event.replaceAll("_", " "), ...shown].join("  ");
}
