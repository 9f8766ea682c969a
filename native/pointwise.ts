// Elementwise operators of a tensor. A number keeps the tensor's dtype (a fraction makes an integer tensor float32).
import { one } from "./call.ts";
import { TensorCore } from "./core.ts";
import { type Schema, table } from "./schema.ts";
import type { Tensor } from "./tensor.ts";

export type Operand = Tensor | number;

// biome-ignore format: a table
const A = table(
  "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "mul.Tensor", "mul.Scalar", "div.Tensor", "div.Scalar",
  "add_.Tensor", "add_.Scalar", "sub_.Tensor", "sub_.Scalar", "mul_.Tensor", "mul_.Scalar", "div_.Tensor", "div_.Scalar",
  "eq.Tensor", "eq.Scalar", "ne.Tensor", "ne.Scalar", "lt.Tensor", "lt.Scalar", "gt.Tensor", "gt.Scalar",
  "le.Tensor", "le.Scalar", "ge.Tensor", "ge.Scalar", "remainder.Tensor", "remainder.Scalar",
  "div.Tensor_mode", "div.Scalar_mode", "pow.Tensor_Tensor", "pow.Tensor_Scalar", "rsub.Scalar",
  "neg", "abs", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "square", "sin", "cos", "tan", "tanh", "atan2",
  "sigmoid", "silu", "gelu", "relu", "softplus", "erf", "sign", "round", "floor", "ceil", "trunc", "clamp", "maximum", "minimum",
  "logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_not", "isnan", "isfinite", "isinf", "where.self", "where.ScalarOther", "lerp.Tensor", "lerp.Scalar",
  "masked_fill.Scalar", "addcmul", "addcdiv", "addcmul_", "addcdiv_", "lerp_.Scalar", "lerp_.Tensor",
  "fill_.Scalar", "zero_", "clamp_", "neg_", "exp_", "sqrt_", "silu_", "relu_", "sigmoid_", "masked_fill_.Scalar", "copy_", "pow_.Scalar", "nan_to_num",
);

function binary(t: Schema, s: Schema, self: TensorCore, other: Operand): Tensor {
  return typeof other === "number" ? one(s, self, other) : one(t, self, other);
}

export abstract class Pointwise extends TensorCore {
  add(other: Operand, alpha = 1): Tensor {
    return typeof other === "number"
      ? one(A["add.Scalar"], this, other, alpha)
      : one(A["add.Tensor"], this, other, alpha);
  }
  sub(other: Operand, alpha = 1): Tensor {
    return typeof other === "number"
      ? one(A["sub.Scalar"], this, other, alpha)
      : one(A["sub.Tensor"], this, other, alpha);
  }
  mul(other: Operand): Tensor {
    return binary(A["mul.Tensor"], A["mul.Scalar"], this, other);
  }
  div(other: Operand): Tensor {
    return binary(A["div.Tensor"], A["div.Scalar"], this, other);
  }
  eq(other: Operand): Tensor {
    return binary(A["eq.Tensor"], A["eq.Scalar"], this, other);
  }
  ne(other: Operand): Tensor {
    return binary(A["ne.Tensor"], A["ne.Scalar"], this, other);
  }
  lt(other: Operand): Tensor {
    return binary(A["lt.Tensor"], A["lt.Scalar"], this, other);
  }
  gt(other: Operand): Tensor {
    return binary(A["gt.Tensor"], A["gt.Scalar"], this, other);
  }
  le(other: Operand): Tensor {
    return binary(A["le.Tensor"], A["le.Scalar"], this, other);
  }
  ge(other: Operand): Tensor {
    return binary(A["ge.Tensor"], A["ge.Scalar"], this, other);
  }
  remainder(other: Operand): Tensor {
    return binary(A["remainder.Tensor"], A["remainder.Scalar"], this, other);
  }
  /** Quotient rounded towards minus infinity; integers stay integers. */
  divFloor(other: Operand): Tensor {
    return typeof other === "number"
      ? one(A["div.Scalar_mode"], this, other, "floor")
      : one(A["div.Tensor_mode"], this, other, "floor");
  }
  /** other - this */
  rsub(other: number): Tensor {
    return one(A["rsub.Scalar"], this, other);
  }
  pow(exponent: Operand): Tensor {
    return binary(A["pow.Tensor_Tensor"], A["pow.Tensor_Scalar"], this, exponent);
  }
  neg(): Tensor {
    return one(A.neg, this);
  }
  abs(): Tensor {
    return one(A.abs, this);
  }
  exp(): Tensor {
    return one(A.exp, this);
  }
  expm1(): Tensor {
    return one(A.expm1, this);
  }
  log(): Tensor {
    return one(A.log, this);
  }
  log1p(): Tensor {
    return one(A.log1p, this);
  }
  log2(): Tensor {
    return one(A.log2, this);
  }
  sqrt(): Tensor {
    return one(A.sqrt, this);
  }
  rsqrt(): Tensor {
    return one(A.rsqrt, this);
  }
  reciprocal(): Tensor {
    return one(A.reciprocal, this);
  }
  square(): Tensor {
    return one(A.square, this);
  }
  sin(): Tensor {
    return one(A.sin, this);
  }
  cos(): Tensor {
    return one(A.cos, this);
  }
  tan(): Tensor {
    return one(A.tan, this);
  }
  tanh(): Tensor {
    return one(A.tanh, this);
  }
  sigmoid(): Tensor {
    return one(A.sigmoid, this);
  }
  silu(): Tensor {
    return one(A.silu, this);
  }
  relu(): Tensor {
    return one(A.relu, this);
  }
  softplus(): Tensor {
    return one(A.softplus, this);
  }
  erf(): Tensor {
    return one(A.erf, this);
  }
  sign(): Tensor {
    return one(A.sign, this);
  }
  round(): Tensor {
    return one(A.round, this);
  }
  floor(): Tensor {
    return one(A.floor, this);
  }
  ceil(): Tensor {
    return one(A.ceil, this);
  }
  trunc(): Tensor {
    return one(A.trunc, this);
  }
  isNan(): Tensor {
    return one(A.isnan, this);
  }
  isFinite(): Tensor {
    return one(A.isfinite, this);
  }
  isInf(): Tensor {
    return one(A.isinf, this);
  }
  atan2(other: Tensor): Tensor {
    return one(A.atan2, this, other);
  }
  nanToNum(nan = 0, posinf?: number, neginf?: number): Tensor {
    return one(A.nan_to_num, this, nan, posinf, neginf);
  }
  gelu(approximate: "none" | "tanh" = "none"): Tensor {
    return one(A.gelu, this, approximate);
  }
  clamp(min?: number | null, max?: number | null): Tensor {
    return one(A.clamp, this, min ?? null, max ?? null);
  }
  maximum(other: Tensor): Tensor {
    return one(A.maximum, this, other);
  }
  minimum(other: Tensor): Tensor {
    return one(A.minimum, this, other);
  }
  logicalAnd(other: Tensor): Tensor {
    return one(A.logical_and, this, other);
  }
  logicalOr(other: Tensor): Tensor {
    return one(A.logical_or, this, other);
  }
  logicalXor(other: Tensor): Tensor {
    return one(A.logical_xor, this, other);
  }
  logicalNot(): Tensor {
    return one(A.logical_not, this);
  }
  bitwiseNot(): Tensor {
    return one(A.bitwise_not, this);
  }
  /** This where `condition` is true, else `other`. */
  where(condition: Tensor, other: Operand): Tensor {
    return typeof other === "number"
      ? one(A["where.ScalarOther"], condition, this, other)
      : one(A["where.self"], condition, this, other);
  }
  /** this + weight * (end - this) */
  lerp(end: Tensor, weight: Operand): Tensor {
    return typeof weight === "number"
      ? one(A["lerp.Scalar"], this, end, weight)
      : one(A["lerp.Tensor"], this, end, weight);
  }
  maskedFill(mask: Tensor, value: number): Tensor {
    return one(A["masked_fill.Scalar"], this, mask, value);
  }
  addcmul(a: Tensor, b: Tensor, value = 1): Tensor {
    return one(A.addcmul, this, a, b, value);
  }
  addcdiv(a: Tensor, b: Tensor, value = 1): Tensor {
    return one(A.addcdiv, this, a, b, value);
  }
  add_(other: Operand, alpha = 1): this {
    one(typeof other === "number" ? A["add_.Scalar"] : A["add_.Tensor"], this, other, alpha);
    return this;
  }
  sub_(other: Operand, alpha = 1): this {
    one(typeof other === "number" ? A["sub_.Scalar"] : A["sub_.Tensor"], this, other, alpha);
    return this;
  }
  mul_(other: Operand): this {
    binary(A["mul_.Tensor"], A["mul_.Scalar"], this, other);
    return this;
  }
  div_(other: Operand): this {
    binary(A["div_.Tensor"], A["div_.Scalar"], this, other);
    return this;
  }
  addcmul_(a: Tensor, b: Tensor, value = 1): this {
    one(A.addcmul_, this, a, b, value);
    return this;
  }
  addcdiv_(a: Tensor, b: Tensor, value = 1): this {
    one(A.addcdiv_, this, a, b, value);
    return this;
  }
  lerp_(end: Tensor, weight: Operand): this {
    one(typeof weight === "number" ? A["lerp_.Scalar"] : A["lerp_.Tensor"], this, end, weight);
    return this;
  }
  fill_(value: number): this {
    one(A["fill_.Scalar"], this, value);
    return this;
  }
  pow_(exponent: number): this {
    one(A["pow_.Scalar"], this, exponent);
    return this;
  }
  zero_(): this {
    one(A.zero_, this);
    return this;
  }
  neg_(): this {
    one(A.neg_, this);
    return this;
  }
  exp_(): this {
    one(A.exp_, this);
    return this;
  }
  sqrt_(): this {
    one(A.sqrt_, this);
    return this;
  }
  silu_(): this {
    one(A.silu_, this);
    return this;
  }
  relu_(): this {
    one(A.relu_, this);
    return this;
  }
  sigmoid_(): this {
    one(A.sigmoid_, this);
    return this;
  }
  clamp_(min?: number | null, max?: number | null): this {
    one(A.clamp_, this, min ?? null, max ?? null);
    return this;
  }
  maskedFill_(mask: Tensor, value: number): this {
    one(A["masked_fill_.Scalar"], this, mask, value);
    return this;
  }
  /** Copies the elements of `source` in, converting dtype and device; shapes broadcast. */
  copy_(source: Tensor): this {
    one(A.copy_, this, source);
    return this;
  }
}
