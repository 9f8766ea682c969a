/** What the job system does now and then by itself: it keeps the past within bounds and looks for room on a full disk. */
import type { DaemonLog } from "../log.ts";
import type { Room } from "./room.ts";
import type { JobStore } from "./store.ts";

export interface UpkeepOptions {
  readonly store: JobStore;
  readonly room: Room;
  readonly log: DaemonLog;
  /** Whether any job waits for room. */
  waits(): boolean;
  roomIsBack(): void;
}

/** How much of the past the journal keeps. Results of jobs beyond it are made anew. */
const KEPT_JOBS = 20_000;
const KEPT_DIGESTS = 200_000;
const PROGRESS_MS = 7 * 24 * 3_600_000;
const PRUNE_MS = 3_600_000;
const ROOM_MS = 2_000;

export class Upkeep {
  readonly #options: UpkeepOptions;
  readonly #timers: ReturnType<typeof setInterval>[] = [];
  #stopped = false;

  constructor(options: UpkeepOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timers.push(
      setInterval(() => void this.#prune(), PRUNE_MS),
      setInterval(() => void this.#lookForRoom(), ROOM_MS),
    );
    for (const timer of this.#timers) timer.unref();
    void this.#prune();
  }

  stop(): void {
    this.#stopped = true;
    for (const timer of this.#timers) clearInterval(timer);
  }

  /** A little at a time: nobody else can write meanwhile. */
  async #prune(): Promise<void> {
    const { store, log } = this.#options;
    const progressBefore = new Date(Date.now() - PROGRESS_MS).toISOString();
    const sum = { jobs: 0, events: 0 };
    try {
      for (let more = true; more && !this.#stopped; ) {
        const { jobs, events } = await store.prune({ jobs: KEPT_JOBS, progressBefore, digests: KEPT_DIGESTS });
        sum.jobs += jobs;
        sum.events += events;
        more = jobs + events > 0;
        if (more) await Bun.sleep(20);
      }
    } catch (error) {
      log("warn", "journal_not_pruned", { error });
    }
    if (sum.jobs + sum.events > 0) log("info", "journal_pruned", sum);
  }

  /** Jobs that a full disk stopped go on by themselves. */
  async #lookForRoom(): Promise<void> {
    const { room, log, waits, roomIsBack } = this.#options;
    if (!waits()) return;
    try {
      if (await room.isBack()) roomIsBack();
    } catch (error) {
      log("warn", "room_unknown", { error });
    }
  }
}
