// Whether a fused kernel may stand in for its composition.
import { needsGraph } from "../precision.ts";
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

/** @internal A CPU kernel may stand in: no graph is recorded and it knows the dtype. */
export function fusible(x: Tensor, ...others: (Tensor | null | undefined)[]): boolean {
  return fusion && (x.dtype === "float32" || x.dtype === "bfloat16") && x.device === "cpu" && !needsGraph(x, ...others);
}
