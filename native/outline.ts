// What a computation would take, by shapes alone: it runs on the device `meta`, whose tensors have no data.
import { addon } from "./addon.ts";
import { noGrad } from "./autograd.ts";
import { type Arg, type Value, withInterceptor } from "./call.ts";
import { bytesMoved, flopsOf, isCurve, isView, kindOf, mayCopy } from "./cost.ts";
import type { DType } from "./dtype.ts";
import { empty } from "./ops.ts";
import { type Part, type Rates, secondsOf } from "./rates.ts";
import { scope } from "./scope.ts";
import { standingFor } from "./standin.ts";
import { type Device, Tensor } from "./tensor.ts";

export interface AttentionShape {
  readonly batch: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly headDim: number;
  readonly dtype: DType;
}

export interface Outline<T> {
  readonly result: T;
  /** Of matrix products, convolutions and attention: 2mnk a product. */
  readonly flops: number;
  /** Most that tensors made meanwhile took at once; weights and whatever was there before are not counted. */
  readonly peakBytes: number;
  /** Shapes of attention, in the order of the calls. */
  readonly attentions: readonly AttentionShape[];
  /** On a machine of these rates: each operator takes as long as its arithmetic or its memory traffic, whichever is more. */
  seconds(rates: Rates): number;
}

/** Runs `fn` on tensors without data, as if they lay on `device`. Tensors in its result are the caller's (or its scope's). */
export function outline<T>(device: Device, fn: () => T): Outline<T> {
  const parts: Part[] = [];
  const attentions: AttentionShape[] = [];
  const native = addon();
  const before = native.outlinedBytes();
  native.resetOutlinedPeakBytes();
  let held = before;
  const result = standingFor(device, () =>
    withInterceptor(
      {
        before() {
          held = native.outlinedBytes();
        },
        instead: (op, args) => (isOutlined(args) ? SHAPES[op.name]?.(args) : undefined),
        after(op, args, made) {
          const dtype = (tensorsOf([made as Arg])[0] ?? tensorsOf(args)[0])?.dtype ?? "float32";
          if (kindOf(op) === "attention") attentions.push(shapeOf(args));
          // a new layout is a copy only where the old one would not do
          const copied = 2 * Math.max(0, native.outlinedBytes() - held);
          const looks = isView(op) || mayCopy(op);
          const bytes = looks ? copied : bytesMoved(op, args, made);
          const isLook = looks && copied === 0;
          parts.push({
            kind: kindOf(op),
            dtype,
            flops: flopsOf(op, args, made),
            bytes,
            isView: isLook,
            isCurve: isCurve(op),
          });
        },
      },
      () => scope(() => noGrad(fn)),
    ),
  );
  return {
    result,
    flops: parts.reduce((sum, part) => sum + part.flops, 0),
    peakBytes: native.outlinedPeakBytes() - before,
    attentions,
    seconds: (rates) => parts.reduce((sum, part) => sum + secondsOf(part, rates), 0),
  };
}

function shapeOf([q, k]: readonly Arg[]): AttentionShape {
  const [query, key] = [q as Tensor, k as Tensor];
  const [batch, heads] = query.ndim === 4 ? [query.size(0), query.size(1)] : [1, 1];
  return { batch, heads, queries: query.size(-2), keys: key.size(-2), headDim: query.size(-1), dtype: query.dtype };
}

/** Bytes of all tensors without data that are alive. */
export const outlinedBytes = (): number => addon().outlinedBytes();
/** The most that they took at once since the last reset. */
export const outlinedPeakBytes = (): number => addon().outlinedPeakBytes();
export const resetOutlinedPeakBytes = (): void => addon().resetOutlinedPeakBytes();

const tensorsOf = (args: readonly Arg[]): Tensor[] =>
  args.flatMap((arg) => (arg instanceof Tensor ? [arg] : Array.isArray(arg) ? tensorsOf(arg as readonly Arg[]) : []));
const isOutlined = (args: readonly Arg[]): boolean => tensorsOf(args).some((t) => t.device === "meta");

// ---- operators that libtorch cannot run on `meta` without Python: what they return ----

const made = (shape: readonly number[], like: Tensor, dtype: DType = like.dtype): Tensor =>
  empty(shape, { dtype, device: "meta" });
const same = ([x]: readonly Arg[]): Tensor => made((x as Tensor).shape, x as Tensor);

/** oneDNN's own names its options in another order. */
const convolvedByName = ([x, w, b, padding, stride, dilation]: readonly Arg[]): Tensor =>
  convolved([x, w, b, stride, padding, dilation]);

function convolved([x, w, , stride, padding, dilation]: readonly Arg[]): Tensor {
  const [input, weight] = [x as Tensor, w as Tensor];
  const axes = weight.ndim - 2;
  const each = (given: Arg, fallback: number): number[] =>
    Array.isArray(given)
      ? given.length === 1
        ? Array<number>(axes).fill(given[0] as number)
        : (given as number[])
      : Array<number>(axes).fill(typeof given === "number" ? given : fallback);
  const [s, p, d] = [each(stride, 1), each(padding, 0), each(dilation, 1)];
  const sides = Array.from({ length: axes }, (_, i) => {
    const reach = (d[i] as number) * (weight.size(2 + i) - 1) + 1;
    return Math.floor((input.size(-axes + i) + 2 * (p[i] as number) - reach) / (s[i] as number)) + 1;
  });
  const batch = input.shape.slice(0, -axes - 1);
  // as oneDNN chooses, and what follows asks for it
  if (axes > 1 && (isChannelsLast(input) || isChannelsLast(weight)))
    return made([...batch, ...sides, weight.size(0)], input).movedim(-1, 1);
  return made([...batch, weight.size(0), ...sides], input);
}

const isChannelsLast = (x: Tensor): boolean => !x.isContiguous && x.movedim(1, -1).isContiguous;

/** The kernels write tokens before heads, and the sums of rows beside them. */
function attended([q, , v]: readonly Arg[]): Tensor {
  const [query, value] = [q as Tensor, v as Tensor];
  const shape = [...query.shape.slice(0, -1), value.size(-1)];
  if (shape.length !== 4) return made(shape, query);
  const [B, H, S, d] = shape as [number, number, number, number];
  made([B, H, S], query, "float32");
  return made([B, S, H, d], query).transpose(1, 2);
}

function broadcast(args: readonly Arg[]): Tensor {
  const [condition, ...values] = tensorsOf(args);
  const all = [condition as Tensor, ...values];
  const ndim = Math.max(...all.map((t) => t.ndim));
  const shape = Array.from({ length: ndim }, (_, i) =>
    all.reduce((side, t) => (t.ndim < ndim - i ? side : Math.max(side, t.size(i - ndim))), 1),
  );
  return made(shape, values[0] ?? (condition as Tensor));
}

function indexed([x, dim, index]: readonly Arg[]): Tensor {
  const source = x as Tensor;
  const axis = (dim as number) < 0 ? (dim as number) + source.ndim : (dim as number);
  return made(
    source.shape.map((side, i) => (i === axis ? (index as Tensor).numel : side)),
    source,
  );
}

/** A weight in oneDNN's own layout; it has the bytes of the weight, and whoever counts weights counts it there (`packLinears`). */
const repacked = ([weight]: readonly Arg[]): Tensor => made([1], weight as Tensor).expand((weight as Tensor).shape);
const multiplied = ([x, weight]: readonly Arg[]): Tensor =>
  made([...(x as Tensor).shape.slice(0, -1), (weight as Tensor).size(0)], x as Tensor);

/** x, axes (null: all), then anything, then whether they stay as 1. */
const reduced =
  (keepAt: number) =>
  (args: readonly Arg[]): Tensor => {
    const [x, dims] = args as readonly [Tensor, Arg];
    const axes = new Set(
      (typeof dims === "number" ? [dims] : ((dims ?? []) as readonly number[])).map((d) => (d < 0 ? d + x.ndim : d)),
    );
    const all = axes.size === 0;
    const isGone = (i: number): boolean => all || axes.has(i);
    const shape =
      args[keepAt] === true ? x.shape.map((n, i) => (isGone(i) ? 1 : n)) : x.shape.filter((_, i) => !isGone(i));
    return made(shape, x);
  };
const total = ([x]: readonly Arg[]): Tensor => made([], x as Tensor);
const asked = ([x]: readonly Arg[]): Tensor => made((x as Tensor).shape, x as Tensor, "bool");

const SHAPES: Readonly<Record<string, (args: readonly Arg[]) => Value>> = {
  "mkldnn::_reorder_linear_weight": repacked,
  "mkldnn::_linear_pointwise": multiplied,
  "aten::conv1d": convolved,
  "aten::conv2d": convolved,
  "aten::conv3d": convolved,
  "aten::mkldnn_convolution": convolvedByName,
  "aten::layer_norm": same,
  "aten::group_norm": same,
  "aten::scaled_dot_product_attention": attended,
  "aten::embedding": ([weight, ids]) => made([...(ids as Tensor).shape, (weight as Tensor).size(-1)], weight as Tensor),
  "aten::index_select": indexed,
  "aten::index_add": same,
  "aten::abs": same,
  "aten::relu": same,
  "aten::nan_to_num": same,
  "aten::flip": same,
  "aten::roll": same,
  "aten::max": total,
  "aten::min": total,
  "aten::std.correction": reduced(3),
  "aten::var.correction": reduced(3),
  "aten::logical_not": asked,
  "aten::isnan": asked,
  "aten::isfinite": asked,
  "aten::isinf": asked,
  "aten::logical_and": asked,
  "aten::logical_or": asked,
  "aten::logical_xor": asked,
  "aten::where.self": broadcast,
  "aten::where.ScalarOther": broadcast,
  "aten::masked_fill.Scalar": same,
};
