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
 * Runs `fn` (synchronous) and measures each operator it calls, the most expensive first. On a GPU, which runs behind, these
 * are the times of the launches. What lies between operators is the difference to the whole.
 */
export function profiled<T>(fn: () => T): {
  readonly result: T;
  readonly seconds: number;
  readonly rows: ProfileRow[];
} {
  const sums = new Map<string, { calls: number; seconds: number; flops: number }>();
  let started = 0;
  const before = (): void => {
    started = performance.now();
  };
  const after = (op: Schema, args: readonly Arg[], made: Value): void => {
    const taken = (performance.now() - started) / 1000;
    const sum = sums.get(op.name) ?? { calls: 0, seconds: 0, flops: 0 };
    sums.set(op.name, {
      calls: sum.calls + 1,
      seconds: sum.seconds + taken,
      flops: sum.flops + flopsOf(op, args, made),
    });
  };
  const start = performance.now();
  const result = withInterceptor({ before, after }, fn);
  const rows = Array.from(sums, ([op, sum]) => ({ op, ...sum })).sort((a, b) => b.seconds - a.seconds);
  return { result, seconds: (performance.now() - start) / 1000, rows };
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
