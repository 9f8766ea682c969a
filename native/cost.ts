// Arithmetic and memory traffic of operators, by the shapes of what goes in and out; and how fast this machine does them.
import type { Arg, Value } from "./call.ts";
import { withInterceptor } from "./call.ts";
import { type DType, itemSize } from "./dtype.ts";
import { conv3d, linear, scaledDotProductAttention } from "./functional.ts";
import { zeros } from "./ops.ts";
import type { Schema } from "./schema.ts";
import { scope } from "./scope.ts";
import { type Device, Tensor } from "./tensor.ts";

type Kind = "product" | "convolution" | "attention";

const KINDS: Readonly<Record<string, Kind>> = {
  "aten::linear": "product",
  "mkldnn::_linear_pointwise": "product",
  "aten::matmul": "product",
  "aten::mm": "product",
  "aten::bmm": "product",
  "aten::addmm": "product",
  "aten::baddbmm": "product",
  "aten::conv1d": "convolution",
  "aten::conv2d": "convolution",
  "aten::conv3d": "convolution",
  "aten::mkldnn_convolution": "convolution",
  "aten::conv_transpose2d": "convolution",
  "aten::conv_transpose3d": "convolution",
  "aten::scaled_dot_product_attention": "attention",
};
/** Without the overload. */
const base = (op: Schema): string => op.name.replace(/\..*$/, "");
export const kindOf = (op: Schema): Kind | null => KINDS[base(op)] ?? null;

/** 2mnk a product, 4d a pair of query and key. Everything else counts as memory traffic. */
export function flopsOf(op: Schema, args: readonly Arg[], result: Value): number {
  const [a, b, c] = args as readonly [Tensor, Tensor, Tensor];
  const out = result as Tensor;
  switch (base(op)) {
    case "aten::linear":
      return 2 * a.numel * b.size(0);
    case "mkldnn::_linear_pointwise":
    case "aten::matmul":
    case "aten::mm":
    case "aten::bmm":
      return 2 * out.numel * a.size(-1);
    case "aten::addmm":
    case "aten::baddbmm":
      return 2 * out.numel * b.size(-1);
    case "aten::conv1d":
    case "aten::conv2d":
    case "aten::conv3d":
    case "aten::mkldnn_convolution":
      return (2 * out.numel * b.numel) / b.size(0);
    case "aten::conv_transpose2d":
    case "aten::conv_transpose3d":
      return (2 * a.numel * b.numel) / b.size(0);
    case "aten::scaled_dot_product_attention":
      return 2 * (a.numel / a.size(-1)) * b.size(-2) * (a.size(-1) + c.size(-1));
    default:
      return 0;
  }
}

/** Give another look at the same memory. */
const VIEWS = new Set(
  [
    ...["view", "reshape", "transpose", "permute", "unsqueeze", "squeeze", "select", "slice", "narrow", "split"],
    ...["split_with_sizes", "chunk", "unbind", "expand", "unflatten", "flatten", "movedim", "detach", "t", "alias"],
    ...["empty", "view_as", "expand_as", "unfold", "diagonal", "as_strided", "view_as_real", "view_as_complex"],
  ].map((name) => `aten::${name}`),
);

/** Bytes read and written. */
export function bytesMoved(op: Schema, args: readonly Arg[], result: Value): number {
  if (VIEWS.has(base(op))) return 0;
  return sizeOf(args) + sizeOf(result as Arg);
}

function sizeOf(value: Arg): number {
  if (value instanceof Tensor) return value.numel * itemSize(value.dtype);
  return Array.isArray(value) ? value.reduce<number>((sum, each) => sum + sizeOf(each as Arg), 0) : 0;
}

/** FLOPs of what `fn` (synchronous) runs. */
export function countedFlops<T>(fn: () => T): { readonly result: T; readonly flops: number } {
  let flops = 0;
  const result = withInterceptor(
    {
      after(op, args, made) {
        flops += flopsOf(op, args, made);
      },
    },
    fn,
  );
  return { result, flops };
}

/** How fast a machine is. */
export interface Rates {
  /** FLOPs a second of each kind of product, by dtype. */
  readonly flops: Readonly<Record<Kind, (dtype: DType) => number>>;
  /** Bytes a second through memory. */
  readonly bytes: number;
  /** What an operator costs whatever its size. */
  readonly callSeconds: number;
}

const measured = new Map<string, Rates>();

/** The rates of a device, measured once a process in about a tenth of a second. Sizes are those at which the rate has settled. */
export function ratesOf(device: Device): Rates {
  const known = measured.get(device);
  if (known !== undefined) return known;
  const byDtype = new Map<string, number>();
  const rate =
    (kind: Kind, run: (dtype: DType) => () => Tensor, flops: number) =>
    (dtype: DType): number => {
      const key = `${kind} ${dtype}`;
      const value = byDtype.get(key) ?? flops / scope(() => typical(run(dtype)));
      byDtype.set(key, value);
      return value;
    };
  const make = (shape: number[], dtype: DType): Tensor => zeros(shape, { dtype, device });
  const rates: Rates = {
    flops: {
      product: rate(
        "product",
        (dtype) => {
          const [x, w] = [make([1024, 1024], dtype), make([1024, 1024], dtype)];
          return () => linear(x, w);
        },
        2 * 1024 ** 3,
      ),
      convolution: rate(
        "convolution",
        (dtype) => {
          const [x, w] = [make([1, 64, 4, 34, 34], dtype), make([64, 64, 3, 3, 3], dtype)];
          return () => conv3d(x, w);
        },
        2 * 64 * 2 * 32 * 32 * 64 * 27,
      ),
      attention: rate(
        "attention",
        (dtype) => {
          const [q, k, v] = [
            make([1, 4, 1024, 64], dtype),
            make([1, 4, 1024, 64], dtype),
            make([1, 4, 1024, 64], dtype),
          ];
          return () => scaledDotProductAttention(q, k, v);
        },
        4 * 4 * 1024 ** 2 * 64,
      ),
    },
    ...scope(() => {
      const [large, small] = [make([16 << 20], "float32"), make([16], "float32")];
      return { bytes: (2 * 4 * (16 << 20)) / typical(() => large.add(1)), callSeconds: typical(() => small.add(1)) };
    }),
  };
  measured.set(device, rates);
  return rates;
}

/** Median seconds of a few runs, each ended by reading a number: a device that works ahead is waited for. */
function typical(run: () => Tensor): number {
  const seconds = Array.from({ length: 6 }, () =>
    scope(() => {
      const start = performance.now();
      run().flatten().narrow(0, 0, 1).item();
      return (performance.now() - start) / 1000;
    }),
  );
  return seconds.slice(1).sort((a, b) => a - b)[2] as number; // the first one warms up
}
