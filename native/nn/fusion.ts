// Whether a fused kernel may stand in for its composition.
import { needsGraph } from "../precision.ts";
import { meantBy } from "../standin.ts";
import type { Tensor } from "../tensor.ts";

let fusion = true;
/** Runs `fn` (synchronous) on the compositions only; tests compare. */
export function withoutFusion<T>(fn: () => T): T {
  const before = fusion;
  fusion = false;
  try {
    return fn();
  } finally {
    fusion = before;
  }
}

const known = (x: Tensor): boolean =>
  fusion && (x.dtype === "float32" || x.dtype === "bfloat16") && meantBy(x.device) === "cpu";

/** @internal A CPU kernel without a gradient may stand in: no graph is recorded and it knows the dtype. */
export function fusible(x: Tensor, ...others: (Tensor | null | undefined)[]): boolean {
  return known(x) && !needsGraph(x, ...others);
}

/** @internal The same for a kernel with a gradient, which sums over tokens: `modulation` must not differ between them. */
export function fusibleWithGrad(x: Tensor, ...modulation: (Tensor | null | undefined)[]): boolean {
  if (!known(x)) return false;
  return modulation.every((m) => !m || m.ndim === 1 || m.size(-2) === 1) || !needsGraph(x, ...modulation);
}
