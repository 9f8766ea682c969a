/** How failure is counted and worded: backoff, crash loops, refusals. */
import type { ErrorBody } from "../../plugins/errors.ts";
import type { SchedulerState } from "./state.ts";
import type { JobRow } from "./store.ts";

/** Deaths without progress after which a job is given up (reliability.md C3). */
export const MAX_DEATHS = 3;
const FIRST_DELAY_MS = 1_000;
const LONGEST_DELAY_MS = 60_000;

/** 1, 2, 4 ... 60 s after the first, second, third ... failure in a row, up to a quarter longer so that restarts spread. */
export const backoffMs = (failures: number, jitter: number): number =>
  Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.max(0, failures - 1)) * (1 + 0.25 * jitter);

/** Times in a row that a job is stopped by a full disk, without getting further, before it is given up: it needs more than there is. */
export const MAX_PAUSES = 3;

export const heldError = (error: ErrorBody): ErrorBody => ({
  ...error,
  hint: "free some space: the job goes on by itself where it stopped",
});

export const CANCELLED: ErrorBody = { code: "cancelled", message: "the job was cancelled" };

export const crashLoop = (row: JobRow, reason: string): ErrorBody => ({
  code: "crash_loop",
  message: `the process of this job died ${row.deaths} times without getting further (${reason})`,
  hint: `the daemon's log has the process's last words; \`waver jobs logs ${row.id}\` has the job's`,
  data: { attempts: row.attempt },
});

/** Why a new request is not taken now; null when it is. */
export function refusal(state: SchedulerState): ErrorBody | null {
  if (state.draining) {
    const hint = "start it again, then repeat the request";
    return { code: "daemon_unreachable", message: "the daemon is stopping", hint };
  }
  let queued = 0;
  // Children are part of work that was taken already.
  for (const { row } of state.jobs.values()) if (row.state === "queued" && row.parent === null) queued += 1;
  if (queued < state.queueLimit) return null;
  return {
    code: "queue_full",
    message: `${queued} jobs are waiting, the most this daemon keeps`,
    hint: "wait for some to finish, or cancel some",
  };
}
