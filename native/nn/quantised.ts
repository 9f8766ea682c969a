// Weights in 8 bits for inference: each output channel of a linear layer has a scale of its own, nothing else changes.
//
// int8: w = scale * q, q an integer up to 127. fp8: q is a float8_e4m3fn, the scale a power of two, so that weights that were
// stored in this form come back to the bit. Scales are bfloat16 numbers (kept as float32): scale * q is rounded once at most,
// in float32 never.
import { one } from "../call.ts";
import type { DType } from "../dtype.ts";
import { EngineError } from "../errors.ts";
import { linear } from "../functional.ts";
import { empty, op } from "../ops.ts";
import { matmulPolicy, needsGraph } from "../precision.ts";
import { schema } from "../schema.ts";
import { scope } from "../scope.ts";
import type { Device, Tensor } from "../tensor.ts";
import type { Module } from "./module.ts";
import type { Parameter } from "./parameter.ts";

export type WeightForm = "int8" | "fp8";

/** How a form stores its values, and the largest of them. */
const FORMS = {
  int8: { dtype: "int8", top: 127 },
  fp8: { dtype: "float8_e4m3fn", top: 448 },
} as const satisfies Record<WeightForm, { dtype: DType; top: number }>;

/** Fewer weights than 32 x 32 stay as they are: what they would save does not pay for their scales. */
const LEAST = 1024;
/** Below this a channel is as good as zero, and its scale stays a number to divide by. */
const TINY = 2 ** -100;
/** Weights that are looked at together: what is in float32 meanwhile is this many and no more. */
const AT_ONCE = 1 << 20;

/** Weights that are brought back at a time: 256 KB of bfloat16. */
const IN_CACHE = 1 << 17;
/** 0x87f0 of an int16: the sign, and seven bits of a float8 behind the upper half of bfloat16's exponent. */
const SIGN_AND_SEVEN = 0x87f0 - 0x10000;

const exp2 = op("aten::exp2");
const view = op("aten::view", "dtype");
const left = op("aten::bitwise_left_shift", "Tensor_Scalar");
const and = op("aten::bitwise_and", "Scalar");
const SCALED_MM = schema("aten::_scaled_mm");

/** A layer that can keep its weight in 8 bits. */
export interface Quantisable {
  readonly weight: Parameter;
  /** Its weight says how something else is scaled: too few bits there shift a whole block's activations. */
  readonly precise: boolean;
  /** Takes the weight in 8 bits; it computes as one of `dtype`. */
  quantise(weight: Tensor, form: WeightForm, how: { dtype: DType; device?: Device | undefined }): void;
}

/**
 * The layers of a network that are kept in 8 bits when it is asked to, by their weight: linear layers in its blocks, with
 * some weights and not marked as precise. Embeddings, norms, convolutions and what is before and after the blocks are none.
 */
export function quantisable(network: Module): ReadonlyMap<Parameter, Quantisable> {
  const found = new Map<Parameter, Quantisable>();
  for (const block of network.offloadable())
    for (const [, layer] of block.namedModules())
      if (isQuantisable(layer) && !layer.precise && layer.weight.declaredNumel >= LEAST) found.set(layer.weight, layer);
  return found;
}

const isQuantisable = (layer: object): layer is Quantisable => "quantise" in layer;

/** The same, refusing a network that has none. */
export function toQuantise(network: Module, form: WeightForm): ReadonlyMap<Parameter, Quantisable> {
  const found = quantisable(network);
  if (found.size > 0) return found;
  throw new EngineError(
    "not_quantisable",
    `${form} keeps linear layers of at least ${LEAST} weights inside a network's blocks in 8 bits, and this network has none`,
    "leave weights out: it is loaded as it is stored",
  );
}

/** The form, where a network has layers that take it: what is small beside another may stay as it is. */
export const formFor = (network: Module, form: WeightForm | undefined): WeightForm | undefined =>
  form !== undefined && quantisable(network).size > 0 ? form : undefined;

/** weight [out, in] -> values [out, in] in 8 bits and scale [out, 1] float32; on `device`, some rows at a time. */
export function quantised(weight: Tensor, form: WeightForm, device: Device = weight.device): [Tensor, Tensor] {
  const { dtype, top } = FORMS[form];
  const [out, into] = weight.shape as [number, number];
  return scope(() => {
    const values = empty([out, into], { dtype, device });
    const scale = empty([out, 1], { device });
    if (device === "meta") return [values, scale];
    const rows = Math.max(1, Math.floor(AT_ONCE / into));
    for (let at = 0; at < out; at += rows)
      scope(() => {
        const n = Math.min(rows, out - at);
        const part = weight.narrow(0, at, n).to({ dtype: "float32", device });
        const step = part.abs().amax([1], true).div(top);
        // with a scale rounded to 8 bits the largest code is 127 (1 + 2^-8) at most, which rounds to 127
        const chosen = (form === "int8" ? step : exp2(step.log2().ceil())).clamp(TINY).to("bfloat16").float();
        const codes = part.div(chosen);
        values.narrow(0, at, n).copy_(form === "int8" ? codes.round() : codes);
        scale.narrow(0, at, n).copy_(chosen);
      });
    return [values, scale];
  });
}

/** scale * values, in `dtype`. On a CPU as many rows at a time as a core's cache holds. */
export const dequantised = (values: Tensor, scale: Tensor, dtype: DType): Tensor =>
  scope(() => {
    if (dtype === "float16") return values.float().mul(scale).to(dtype); // the scale may be too small for it
    const factor = scale.to(dtype);
    if (values.device !== "cpu") return values.to({ dtype, copy: true }).mul_(factor);
    const whole = empty(values.shape, { dtype });
    const [out, into] = values.shape as [number, number];
    const rows = Math.max(1, Math.floor(IN_CACHE / into));
    for (let at = 0; at < out; at += rows)
      scope(() => {
        const n = Math.min(rows, out - at);
        const [part, held] = [whole.narrow(0, at, n), values.narrow(0, at, n)];
        if (held.dtype === FORMS.fp8.dtype) part.copy_(shifted(held)).mul_(2 ** 120);
        else part.copy_(held);
        part.mul_(factor.narrow(0, at, n));
      });
    return whole;
  });

/**
 * float8_e4m3fn as the bfloat16 that is smaller by 2^120, its bits where that has them, subnormal or not: four times as fast
 * as libtorch's own conversion. What is no number becomes one; its row's scale is none then.
 */
const shifted = (values: Tensor): Tensor =>
  view(and(left(view(values, "int8").to("int16"), 4), SIGN_AND_SEVEN), "bfloat16");

/** x [..., in] -> [..., out]: the weight is brought to the dtype of x for this product, or multiplied as it is where that is faster. */
export function quantisedLinear(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | null): Tensor {
  return scope(() => {
    const multipliesAsItIs =
      values.dtype === FORMS.fp8.dtype &&
      x.dtype === "bfloat16" &&
      matmulPolicy() === null &&
      values.shape.every((side) => side % 16 === 0) && // as the kernel wants it
      hasFloat8Products(x.device) &&
      !needsGraph(x, bias);
    if (multipliesAsItIs) return float8Linear(x, values, scale, bias);
    return linear(x, dequantised(values, scale, matmulPolicy()?.dtype ?? x.dtype), bias);
  });
}

/**
 * @internal The product of two float8 matrices, in bfloat16: each row of x [..., in] gets a scale of its own in this call.
 * Beside the weights' rounding there is that of x, to 3 bits of mantissa.
 */
export function float8Linear(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | null): Tensor {
  return scope(() => {
    const rows = x.reshape([-1, x.size(-1)]).float();
    const step = rows.abs().amax([1], true).div(FORMS.fp8.top).clamp(TINY);
    const codes = rows.div(step).to(FORMS.fp8.dtype);
    const [w, s] = [values.transpose(0, 1), scale.transpose(0, 1)];
    const y = one(SCALED_MM, codes, w, step, s.contiguous(), bias, null, "bfloat16", false);
    return y.view([...x.shape.slice(0, -1), values.size(0)]);
  });
}

const known = new Map<Device, boolean>();

/**
 * Whether a device multiplies float8 with a scale a row: NVIDIA's of compute capability 8.9 and above. libtorch knows which,
 * and says so by failing. A CPU has the operator, and is slower with it. **Never run** on a GPU.
 */
function hasFloat8Products(device: Device): boolean {
  if (!device.startsWith("cuda")) return false;
  let has = known.get(device);
  if (has === undefined) {
    has = scope(() => {
      const [x, scale] = [empty([16, 16], { dtype: "bfloat16", device }), empty([16, 1], { device })];
      try {
        float8Linear(x.zero_(), x.to(FORMS.fp8.dtype), scale.fill_(1), null);
        return true;
      } catch (error) {
        if (error instanceof EngineError) return false;
        throw error;
      }
    });
    known.set(device, has);
  }
  return has;
}
