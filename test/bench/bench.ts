/** What the benchmarks share: interleaved rounds, medians, the machine's own peaks. */
import { Generator, randn, scope } from "../../native/index.ts";
import type { Peer } from "./peer.ts";

export interface Setting {
  readonly peer: Peer;
  /** Weights and inputs travel through it; removed at the end. */
  readonly folder: string;
  readonly rounds: number;
  /** Whether to say which operators our side's time went to. */
  readonly profile: boolean;
  log(line: string): void;
}

export interface Result {
  readonly ratios: Readonly<Record<string, number>>;
  /** GFLOP/s, or bytes where the name says so. */
  readonly peaks: Readonly<Record<string, number>>;
  readonly [more: string]: unknown;
}
export type Bench = (setting: Setting) => Promise<Result>;

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

export const round = (value: number, digits = 3): number => Number(value.toPrecision(digits));

export type Clock = "wall" | "cpu";
let clock: Clock = "wall";
export function useClock(chosen: Clock): void {
  clock = chosen;
}

/** Seconds of one call, by the clock in use. */
export function seconds(job: () => void): number {
  const now = (): number =>
    clock === "wall" ? performance.now() * 1000 : process.cpuUsage().user + process.cpuUsage().system;
  const start = now();
  job();
  return (now() - start) / 1e6;
}

/** A side of a comparison: gives the seconds of one repetition. */
export type Side = () => number | Promise<number>;

/** Median seconds of each side, after one round that warms up and does not count. */
export async function interleaved<Name extends string>(
  rounds: number,
  sides: Readonly<Record<Name, Side>>,
): Promise<Record<Name, number>> {
  const names = Object.keys(sides) as Name[];
  const times = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  for (let r = -1; r < rounds; r++) {
    for (const name of names) {
      const taken = await sides[name]();
      if (r >= 0) times[name].push(taken);
    }
  }
  return Object.fromEntries(names.map((name) => [name, median(times[name])])) as Record<Name, number>;
}

const N = 2048; // large enough for the peak, small enough for every round

/** Seconds of the product of two square matrices of random numbers, in each dtype: what this machine can do at most. */
export function gemms(): Record<"gemm.float32" | "gemm.bfloat16", Side> & Disposable {
  using generator = new Generator(1);
  const a = randn([N, N], { generator });
  const half = a.to("bfloat16");
  return {
    "gemm.float32": () => seconds(() => scope(() => void a.mm(a))),
    "gemm.bfloat16": () => seconds(() => scope(() => void half.mm(half))),
    [Symbol.dispose]() {
      a.dispose();
      half.dispose();
    },
  };
}

/** GFLOP/s of the products above. */
export const gemmPeaks = (
  times: Readonly<Record<"gemm.float32" | "gemm.bfloat16", number>>,
): Record<string, number> => ({
  "gemm.float32.gflops": round((2 * N ** 3) / times["gemm.float32"] / 1e9),
  "gemm.bfloat16.gflops": round((2 * N ** 3) / times["gemm.bfloat16"] / 1e9),
});
