/**
 * The one place where job state changes: events are taken in order, a batch of them becomes one durable transaction,
 * and only then is anything done or told to anyone. So what a client was told is on the disk, and many requests at
 * once share one fsync.
 */
import { randomBytes } from "node:crypto";
import { advance } from "./scheduler.ts";
import type { Clock, Decision, SchedulerEvent, SchedulerState } from "./state.ts";
import type { JobStore, Write } from "./store.ts";

/** Progress and log lines wait this long for company: they need no fsync of their own. */
const LAZY_MS = 200;
const MAX_BATCH = 256;
/** Pause between two attempts to write to a full disk, and how long a daemon that is to stop goes on trying. */
const FULL_MS = 500;
const DRAINING_MS = 3_000;
/** Events that wait for a full disk, before those that can be lost are. */
const MAX_WAITING = 4_096;
/** How often backoffs and grace periods are looked at. */
const TICK_MS = 200;

export const clock = (): Clock => ({
  mono: performance.now(),
  wall: new Date().toISOString(),
  token: () => randomBytes(16).toString("hex"),
  jitter: Math.random,
});

export interface Trouble {
  /** The disk is full: gives back what was kept in reserve. False when that is gone already. */
  makeRoom(): boolean;
  /** Nothing is left to give back: the journal, and with it every answer about jobs, waits until somebody frees space. */
  waiting(ms: number): void;
  /** A commit failed. The disk can no longer be trusted: the daemon must end, and recover at its next start. */
  fatal(error: unknown): void;
}

export class Loop {
  readonly #state: SchedulerState;
  readonly #store: JobStore;
  readonly #perform: (decision: Decision) => void;
  readonly #trouble: Trouble;
  readonly #ticks: ReturnType<typeof setInterval>;
  #queue: SchedulerEvent[] = [];
  #lazy: ReturnType<typeof setTimeout> | null = null;
  #running: Promise<void> | null = null;
  #closed = false;

  constructor(state: SchedulerState, store: JobStore, perform: (decision: Decision) => void, trouble: Trouble) {
    this.#state = state;
    this.#store = store;
    this.#perform = perform;
    this.#trouble = trouble;
    this.#ticks = setInterval(() => {
      if (state.jobs.size > 0) this.post({ type: "tick" });
    }, TICK_MS);
  }

  post(event: SchedulerEvent): void {
    if (this.#closed) return;
    if (event.type === "progress" || event.type === "log") {
      this.#postLazily(event);
      return;
    }
    this.#queue.push(event);
    this.#run();
  }

  /** Writes and performs decisions that were made outside (restoring at start). */
  async carryOut(decisions: readonly Decision[]): Promise<void> {
    await this.#commit(decisions);
  }

  /** Resolves when everything posted so far is on the disk and done. */
  async idle(): Promise<void> {
    this.#run();
    while (this.#running !== null) await this.#running;
  }

  async close(): Promise<void> {
    clearInterval(this.#ticks);
    await this.idle();
    this.#closed = true;
  }

  #postLazily(event: Extract<SchedulerEvent, { type: "progress" | "log" }>): void {
    const last = this.#queue.at(-1);
    // A newer report of the same stage replaces one that nobody has seen yet.
    if (
      event.type === "progress" &&
      last?.type === "progress" &&
      last.lease.token === event.lease.token &&
      last.progress.stage === event.progress.stage
    )
      this.#queue[this.#queue.length - 1] = event;
    else this.#queue.push(event);
    if (this.#queue.length >= MAX_BATCH) this.#run();
    else
      this.#lazy ??= setTimeout(() => {
        this.#lazy = null;
        this.#run();
      }, LAZY_MS);
  }

  #run(): void {
    this.#running ??= this.#drain().finally(() => {
      this.#running = null;
      if (this.#queue.length > 0 && this.#lazy === null) this.#run();
    });
  }

  async #drain(): Promise<void> {
    // Requests that arrived in the same turn of the event loop share the transaction.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0, MAX_BATCH);
      const decisions = batch.flatMap((event) => advance(this.#state, event, clock()));
      if (!(await this.#commit(decisions))) return;
    }
  }

  async #commit(decisions: readonly Decision[]): Promise<boolean> {
    const writes: Write[] = decisions.flatMap((decision) => (decision.do === "write" ? [decision.write] : []));
    try {
      await this.#write(writes);
    } catch (error) {
      this.#closed = true;
      this.#queue = [];
      this.#trouble.fatal(error);
      return false;
    }
    for (const decision of decisions) if (decision.do !== "write") this.#perform(decision);
    return true;
  }

  /** A full disk rolls the transaction back whole, so it may be tried again; any other failure may not. */
  async #write(writes: readonly Write[]): Promise<void> {
    for (let waited = 0; ; waited += FULL_MS)
      try {
        await this.#store.commit(writes);
        return;
      } catch (error) {
        if ((error as { code?: unknown }).code !== "SQLITE_FULL") throw error;
        if (this.#trouble.makeRoom()) continue;
        // A daemon that is to stop stops: what it could not write, its successor finds undone and does again.
        if (this.#state.draining && waited >= DRAINING_MS) throw error;
        this.#trouble.waiting(waited);
        this.#forget();
        await Bun.sleep(FULL_MS);
      }
  }

  /** What processes say meanwhile must not pile up; how far a job is, its next report says again. */
  #forget(): void {
    if (this.#queue.length <= MAX_WAITING) return;
    this.#queue = this.#queue.filter(({ type }) => type !== "progress" && type !== "log");
  }
}
