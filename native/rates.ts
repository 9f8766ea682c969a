// How fast this machine does what operators do: measured, in about half a second, when first asked.
import { addon } from "./addon.ts";
import { noGrad } from "./autograd.ts";
import type { Kind } from "./cost.ts";
import type { DType } from "./dtype.ts";
import { conv3d, linear, scaledDotProductAttention } from "./functional.ts";
import { geluTanh } from "./nn/fused.ts";
import { zeros } from "./ops.ts";
import { scope } from "./scope.ts";
import type { Device, Tensor } from "./tensor.ts";

/** One operator's part of a computation. */
export interface Part {
  readonly kind: Kind | null;
  readonly dtype: DType;
  readonly flops: number;
  readonly bytes: number;
  /** Another look at the same memory. */
  readonly isView: boolean;
  /** More than a few instructions an element. */
  readonly isCurve: boolean;
}

export interface Rates {
  /** FLOPs a second of each kind of product, by dtype. */
  readonly flops: Readonly<Record<Kind, (dtype: DType) => number>>;
  /** Bytes a second, read and written, of an operator that moves so many. */
  bytes(moved: number): number;
  /** The same of one that computes exponentials or norms. */
  readonly curve: number;
  /** What an operator costs whatever its size, by kind, and what another look at a tensor costs. */
  readonly callSeconds: Readonly<Record<Kind | "other" | "view", number>>;
  /** What has been measured so far, in words and 10^9 a second. */
  said(): Readonly<Record<string, number>>;
}

/** Arithmetic, memory traffic or the call itself, whichever takes longest. */
export function secondsOf({ kind, dtype, flops, bytes, isView, isCurve }: Part, rates: Rates): number {
  if (isView) return rates.callSeconds.view;
  const product = kind === null ? 0 : flops / rates.flops[kind](dtype);
  return rates.callSeconds[kind ?? "other"] + Math.max(product, bytes / (isCurve ? rates.curve : rates.bytes(bytes)));
}

/** Bytes that an operator moves, and how often it is measured together: what stays in a core's own cache, in the last one, in none. */
const TRAFFIC = [
  [2 ** 18, 50],
  [2 ** 23, 2],
  [2 ** 27, 1],
] as const;
/** Calls that are measured together: one alone is shorter than the clock's tick. */
const CALLS = 200;

const measured = new Map<string, Rates>();

/** The rates of a device with as many threads as are set, measured once a process. Sizes are those at which a rate has settled. */
export function ratesOf(device: Device): Rates {
  const key = `${device} ${addon().getThreads()}`;
  const known = measured.get(key);
  if (known !== undefined) return known;
  const rates = measure(device);
  measured.set(key, rates);
  return rates;
}

function measure(device: Device): Rates {
  const make = (shape: number[], dtype: DType): Tensor => zeros(shape, { dtype, device });
  const said: Record<string, number> = {};
  const rateOf = (name: string, amount: number, prepare: () => () => Tensor, times = 1): number => {
    const rate = amount / noGrad(() => scope(() => typical(device, prepare(), times)));
    said[name] = Math.round(rate / 1e8) / 10;
    return rate;
  };
  const byDtype = new Map<string, number>();
  const rate =
    (kind: Kind, flops: number, prepare: (dtype: DType) => () => Tensor) =>
    (dtype: DType): number => {
      const name = `${kind} ${dtype} GFLOP/s`;
      const value = byDtype.get(name) ?? rateOf(name, flops, () => prepare(dtype));
      byDtype.set(name, value);
      return value;
    };
  const product = (m: number, k: number, n: number, dtype: DType) => {
    const [x, w] = [make([m, k], dtype), make([n, k], dtype)];
    return () => linear(x, w);
  };
  const convolution = (channels: number, frames: number, side: number, dtype: DType) => {
    const [x, w] = [make([1, channels, frames, side, side], dtype), make([channels, channels, 3, 3, 3], dtype)].map(
      (t) => t.contiguous("channels_last_3d"),
    ) as [Tensor, Tensor];
    return () => conv3d(x, w, null, { padding: [0, 1, 1] });
  };
  const attention = (heads: number, tokens: number, dim: number, dtype: DType) => {
    const [q, k, v] = [0, 1, 2].map(() => make([1, heads, tokens, dim], dtype)) as [Tensor, Tensor, Tensor];
    return () => scaledDotProductAttention(q, k, v);
  };
  const call = (prepare: () => () => Tensor): number => noGrad(() => scope(() => typical(device, prepare(), CALLS)));
  const on16 = (run: (x: Tensor) => Tensor) => () => {
    const x = make([16], "float32");
    return () => run(x);
  };
  const traffic = TRAFFIC.map(([moved, times]) =>
    rateOf(
      `memory ${moved / 2 ** 20} MiB GB/s`,
      moved,
      () => {
        const x = make([moved / 8], "float32");
        return () => x.add(1);
      },
      times,
    ),
  );
  return {
    flops: {
      product: rate("product", 2 * 512 * 1536 * 4096, (dtype) => product(512, 1536, 4096, dtype)),
      convolution: rate("convolution", 2 * 128 * 128 * 27 * 4 * 24 * 24, (dtype) => convolution(128, 6, 24, dtype)),
      attention: rate("attention", 4 * 2 * 1024 ** 2 * 128, (dtype) => attention(2, 1024, 128, dtype)),
    },
    bytes: (moved) => traffic[moved <= TRAFFIC[0][0] ? 0 : moved <= 4 * TRAFFIC[1][0] ? 1 : 2] as number,
    curve: rateOf("curves GB/s", 2 * 4 * 512 * 8960, () => {
      const x = make([1, 512, 8960], "float32");
      return () => geluTanh(x);
    }),
    callSeconds: {
      product: call(() => product(4, 16, 16, "float32")),
      convolution: call(() => convolution(8, 3, 4, "float32")),
      attention: call(() => attention(1, 16, 16, "float32")),
      other: call(on16((x) => x.add(1))),
      view: call(on16((x) => x.view([4, 4]))),
    },
    said: () => ({ ...said }),
  };
}

/**
 * Median seconds of `run`: on a CPU processor time, shared among its threads, so that other programs beside it do not count;
 * elsewhere it ends by reading a number, which waits for a device that works ahead.
 */
function typical(device: Device, run: () => Tensor, times: number): number {
  const isCpu = device === "cpu";
  const threads = addon().getThreads();
  const clock = (): number => {
    if (!isCpu) return performance.now() / 1000;
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6 / threads;
  };
  const seconds = Array.from({ length: 4 }, () =>
    scope(() => {
      const start = clock();
      let made = run();
      for (let i = 1; i < times; i++) {
        made.dispose();
        made = run();
      }
      if (!isCpu) made.flatten().narrow(0, 0, 1).item();
      return (clock() - start) / times;
    }),
  );
  return Math.max(1e-9, seconds.slice(1).sort((a, b) => a - b)[1] as number); // the first one warms up
}
