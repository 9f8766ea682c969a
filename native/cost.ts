// Arithmetic and memory traffic of operators, by the shapes of what goes in and out; rates.ts has how fast a machine does them.
import type { Arg, Value } from "./call.ts";
import { withInterceptor } from "./call.ts";
import { itemSize } from "./dtype.ts";
import type { Schema } from "./schema.ts";
import { Tensor } from "./tensor.ts";

export type Kind = "product" | "convolution" | "attention";

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

/** Give another look, or a copy where that cannot be. */
const COPIES = new Set(["aten::contiguous", "aten::to"]);
export const mayCopy = (op: Schema): boolean => COPIES.has(base(op));
export const isView = (op: Schema): boolean => VIEWS.has(base(op));

/** Do more for an element than a processor does while it comes from memory. */
const CURVES = new Set(
  [
    ...["silu", "silu_", "gelu", "softmax", "exp", "exp_", "log", "sigmoid", "sigmoid_", "tanh", "sin", "cos", "pow"],
    ...["layer_norm", "group_norm", "rms_norm", "norm", "_fused_rms_norm", "native_layer_norm"],
  ].map((name) => `aten::${name}`),
);
export const isCurve = (op: Schema): boolean => op.name.startsWith("waver::") || CURVES.has(base(op));

/** Bytes read and written. */
export function bytesMoved(op: Schema, args: readonly Arg[], result: Value): number {
  if (isView(op)) return 0;
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
