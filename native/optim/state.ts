// Parameters with names, and tensors of state kept beside them.
import { EngineError } from "../errors.ts";
import type { WeightSource } from "../nn/module.ts";
import type { Tensor } from "../tensor.ts";

export type Named = readonly [string, Tensor];
/** Pairs as namedParameters() gives them; bare tensors are named by their position. */
export type Parameters = Iterable<Named | Tensor>;

export function named(parameters: Parameters): Named[] {
  return Array.from(parameters, (p, i) =>
    Array.isArray(p) ? (p as unknown as Named) : ([String(i), p as Tensor] as const),
  );
}

/** Reads one tensor of a saved state, with its shape checked. */
export function stored(source: WeightSource, keys: ReadonlySet<string>, key: string, shape: readonly number[]): Tensor {
  if (!keys.has(key)) throw new EngineError("checkpoint_mismatch", `the saved state has no ${key}`);
  const t = source.get(key);
  if (t.shape.length !== shape.length || t.shape.some((n, i) => n !== shape[i])) {
    throw new EngineError("checkpoint_mismatch", `the saved ${key} is [${t.shape}], [${shape}] is needed`);
  }
  return t;
}
