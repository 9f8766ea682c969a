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
      readonly seconds: number;
      readonly state: string;
      readonly reused: boolean;
      readonly message: string | null;
    }
  | { readonly kind: "retry"; readonly job: Followed; readonly attempt: number }
  | { readonly kind: "log"; readonly job: Followed; readonly level: "info" | "warn" | "error"; readonly text: string };

export class Stages {
  readonly #jobs = new Map<string, Running>();

  /** Jobs that have not ended, the asked-for one last. */
  get running(): readonly Running[] {
    return [...this.#jobs.values()].sort((a, b) => b.job.depth - a.job.depth);
  }

  take(event: JobEvent, job: Followed): Change[] {
    const at = Date.parse(event.time);
    const known = this.#jobs.get(job.id) ?? { job, state: "queued", since: at, stage: null };
    if (event.type === "log")
      return [{ kind: "log", job, level: event.level, text: logText(event.event, event.fields) }];
    if (event.type === "progress") return this.#progress(known, event.progress, at);
    if (event.state === "queued" || event.state === "running") {
      const again = event.state === "running" && event.attempt > 1;
      // Loading before the first report belongs to the first stage.
      this.#jobs.set(job.id, { ...known, state: event.state, since: known.stage === null ? at : known.since });
      return again ? [{ kind: "retry", job, attempt: event.attempt }] : [];
    }
    this.#jobs.delete(job.id);
    const ended: Change[] = known.stage === null ? [] : [this.#closed(known, known.stage, event.state === "done", at)];
    const message = event.error === undefined ? null : event.error.message;
    return [
      ...ended,
      {
        kind: "job-done",
        job,
        seconds: (at - known.since) / 1000,
        state: event.state,
        reused: event.reused === true,
        message,
      },
    ];
  }

  #progress(known: Running, progress: Progress, at: number): Change[] {
    const { job } = known;
    const before = known.stage;
    const same = before !== null && before.progress.stage === progress.stage;
    const stage = { progress, since: same ? before.since : (before?.until ?? known.since), until: at };
    this.#jobs.set(job.id, { ...known, state: "running", stage });
    const closed = before === null || same ? [] : [this.#closed(known, before, true, before.until)];
    return [...closed, { kind: "progress", job, stage }];
  }

  #closed({ job }: Running, stage: Stage, finished: boolean, at: number): Change {
    const { done, total } = stage.progress;
    return { kind: "stage-done", job, stage: { ...stage, until: at }, complete: finished || done >= total };
  }
}

function logText(event: string, fields: Readonly<Record<string, unknown>>): string {
  const { message, ...rest } = fields;
  const shown = Object.entries(rest).map(
    ([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  return [typeof message === "string" ? message : event.replaceAll("_", " "), ...shown].join("  ");
}
