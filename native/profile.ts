// Where the time goes: seconds and FLOPs of every operator that a piece of work calls.
import { type Arg, type Value, withInterceptor } from "./call.ts";
import { flopsOf } from "./cost.ts";
import type { Schema } from "./schema.ts";

export interface ProfileRow {
  readonly op: string;
  readonly calls: number;
  readonly seconds: number;
  readonly flops: number;
}

/**
 * Measures each operator that several stretches of work call. On a GPU, which runs behind, these are the times of the
 * launches. What lies between operators is the difference to the whole.
 */
export class Profile {
  readonly #sums = new Map<string, { calls: number; seconds: number; flops: number }>();
  #seconds = 0;

  /** Runs `work` (synchronous), whose result it leaves as it is. */
  during<T>(work: () => T): T {
    let started = 0;
    const before = (): void => {
      started = performance.now();
    };
    const after = (op: Schema, args: readonly Arg[], made: Value): void => {
      const taken = (performance.now() - started) / 1000;
      const sum = this.#sums.get(op.name) ?? { calls: 0, seconds: 0, flops: 0 };
      this.#sums.set(op.name, {
        calls: sum.calls + 1,
        seconds: sum.seconds + taken,
        flops: sum.flops + flopsOf(op, args, made),
      });
    };
    const start = performance.now();
    const result = withInterceptor({ before, after }, work);
    this.#seconds += (performance.now() - start) / 1000;
    return result;
  }

  get seconds(): number {
    return this.#seconds;
  }

  /** The most expensive first. */
  get rows(): ProfileRow[] {
    return Array.from(this.#sums, ([op, sum]) => ({ op, ...sum })).sort((a, b) => b.seconds - a.seconds);
  }
}

/** The profile of one stretch of work. */
export function profiled<T>(fn: () => T): {
  readonly result: T;
  readonly seconds: number;
  readonly rows: ProfileRow[];
} {
  const profile = new Profile();
  const result = profile.during(fn);
  return { result, seconds: profile.seconds, rows: profile.rows };
}

/** The rows as lines of text, with what part of the whole each is and how fast its arithmetic went. */
export function profileTable({
  seconds,
  rows,
}: {
  readonly seconds: number;
  readonly rows: readonly ProfileRow[];
}): string {
  const line = (op: string, calls: string, ms: string, part: string, speed: string): string =>
    `${op.padEnd(40)} ${calls.padStart(6)} ${ms.padStart(10)} ${part.padStart(6)} ${speed.padStart(9)}`;
  const part = (s: number): string => `${((100 * s) / seconds).toFixed(1)}%`;
  const between = seconds - rows.reduce((sum, row) => sum + row.seconds, 0);
  return [
    line("operator", "calls", "ms", "", "GFLOP/s"),
    ...rows.map(({ op, calls, seconds: s, flops }) =>
      line(op, String(calls), (s * 1e3).toFixed(2), part(s), flops === 0 ? "" : (flops / s / 1e9).toFixed(0)),
    ),
    line("between operators", "", (between * 1e3).toFixed(2), part(between), ""),
  ].join("\n");
}
