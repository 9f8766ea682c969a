/** Turns counts into progress events: rate over the last half minute, ETA of the stage, a few events a second at most. */
import type { Progress } from "../wire.ts";

/** People cannot read faster than about five updates a second. */
const INTERVAL_MS = 200;
/** Rates follow the recent past: the first steps of a stage are slower than the rest. */
const WINDOW_MS = 30_000;

interface Sample {
  readonly at: number;
  readonly done: number;
}

export class ProgressMeter {
  readonly #send: (progress: Progress) => void;
  readonly #now: () => number;
  #stage: string | null = null;
  #samples: Sample[] = [];
  #sentAt = Number.NEGATIVE_INFINITY;
  #waiting: Progress | null = null;
  #timer: Timer | null = null;

  constructor(send: (progress: Progress) => void, now: () => number = () => performance.now()) {
    this.#send = send;
    this.#now = now;
  }

  report(done: number, total: number, stage: string, detail?: Readonly<Record<string, unknown>>): void {
    const at = this.#now();
    const isNew = stage !== this.#stage;
    if (isNew) {
      // The last word of a stage is always said.
      this.flush();
      this.#stage = stage;
      this.#samples = [];
    }
    const last = this.#samples.at(-1);
    if (last === undefined || at - last.at >= INTERVAL_MS / 2) this.#samples.push({ at, done });
    while (this.#samples.length > 2 && at - (this.#samples[0] as Sample).at > WINDOW_MS) this.#samples.shift();
    const progress = {
      stage,
      done,
      total,
      ...this.#pace(at, done, total),
      ...(detail === undefined ? {} : { detail: { ...detail } }),
    };
    if (isNew || done >= total || at - this.#sentAt >= INTERVAL_MS) this.#emit(progress, at);
    else this.#hold(progress);
  }

  /** Sends what is still held back. */
  flush(): void {
    if (this.#waiting !== null) this.#emit(this.#waiting, this.#now());
  }

  #pace(at: number, done: number, total: number): { rate?: number; eta?: number } {
    const oldest = this.#samples[0];
    if (oldest === undefined || at <= oldest.at || done <= oldest.done) return {};
    const rate = ((done - oldest.done) * 1000) / (at - oldest.at);
    return { rate, eta: Math.max(0, total - done) / rate };
  }

  #emit(progress: Progress, at: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#waiting = null;
    this.#sentAt = at;
    this.#send(progress);
  }

  #hold(progress: Progress): void {
    this.#waiting = progress;
    this.#timer ??= setTimeout(() => this.flush(), INTERVAL_MS);
  }
}
