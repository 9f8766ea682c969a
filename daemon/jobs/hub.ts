/** Wakes whoever reads a job's events. Readers fetch from the journal at their own pace, so a slow one costs no memory. */
import type { JobEvent, JobId } from "../wire.ts";
import { isTerminal } from "../wire.ts";
import type { JobStore } from "./store.ts";

const PAGE = 256;

export class EventHub {
  readonly #sleepers = new Map<JobId, Set<() => void>>();

  wake(job: JobId): void {
    const sleepers = this.#sleepers.get(job);
    if (sleepers === undefined) return;
    this.#sleepers.delete(job);
    for (const wake of sleepers) wake();
  }

  /** Events after `after`, as they come, up to and including the terminal state. Ends silently when aborted. */
  async *read(store: JobStore, job: JobId, after: number, signal: AbortSignal): AsyncGenerator<JobEvent> {
    let seq = after;
    while (!signal.aborted) {
      // Asked for before the page is read: an event between the two is not missed.
      const woken = this.#next(job, signal);
      const page = await store.events(job, seq, PAGE);
      for (const event of page) {
        seq = event.seq;
        yield event;
        if (event.type === "state" && isTerminal(event.state)) return;
      }
      if (page.length === 0) {
        const row = await store.job(job);
        // Everything was read before: the stream of a finished job, resumed at its end.
        if (row === null || (isTerminal(row.state) && (await store.events(job, seq, 1)).length === 0)) return;
        await woken;
      }
    }
  }

  #next(job: JobId, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const sleepers = this.#sleepers.get(job) ?? new Set();
      this.#sleepers.set(job, sleepers);
      const wake = (): void => {
        sleepers.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      sleepers.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }
}
