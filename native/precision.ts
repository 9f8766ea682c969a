// In which dtype the matrix products run: fp32 master weights, bf16 arithmetic, by explicit casts under autograd.
import { addon } from "./addon.ts";
import { type DType, isFloating } from "./dtype.ts";
import { EngineError } from "./errors.ts";
import { scope } from "./scope.ts";
import type { Tensor } from "./tensor.ts";

export interface MatmulPolicy {
  dtype: DType;
  /** "input": back to the dtype of x (default); "compute": left in the policy's dtype, as autocast does. */
  result?: "input" | "compute";
}

let current: MatmulPolicy | null = null;

/** Runs `fn` (synchronous) with linear, conv and attention computing in another dtype; null: as the tensors are. */
export function withMatmulDtype<T>(policy: DType | MatmulPolicy | null, fn: () => T): T {
  const before = current;
  current = typeof policy === "string" ? { dtype: policy } : policy;
  try {
    const result = fn();
    if (result instanceof Promise)
      throw new EngineError("scope_async", "withMatmulDtype() was given an async function");
    return result;
  } finally {
    current = before;
  }
}

/** The policy in force. */
export function matmulPolicy(): MatmulPolicy | null {
  return current;
}

/** @internal Runs a product on cast inputs when a policy asks for another dtype than x has. */
export function inMatmulDtype(
  x: Tensor,
  rest: readonly (Tensor | null | undefined)[],
  product: (x: Tensor, rest: (Tensor | null)[]) => Tensor,
): Tensor {
  const p = current;
  if (p === null || !isFloating(x.dtype)) return product(x, rest as (Tensor | null)[]);
  // A graph keeps the casts it needs; the handles can go.
  return scope(() => {
    const cast = (t: Tensor | null | undefined) =>
      t && isFloating(t.dtype) && t.dtype !== p.dtype ? t.to(p.dtype) : (t ?? null);
    const y = product(cast(x) as Tensor, rest.map(cast));
    return p.result === "compute" || y.dtype === x.dtype ? y : y.to(x.dtype);
  });
}

/** @internal Whether a graph would be recorded for these inputs: fused kernels have no backward. */
export function needsGraph(...tensors: (Tensor | null | undefined)[]): boolean {
  return addon().gradEnabled() && tensors.some((t) => t?.requiresGrad);
}
