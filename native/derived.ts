// Tensors computed from others and kept until one of those changes: packed weights, text keys and values.
import type { TensorCore } from "./core.ts";
import { keep, scope } from "./scope.ts";
import type { Tensor } from "./tensor.ts";

/** What a tensor keeps for others, by who computed it. */
export interface Derived {
  readonly stamp: readonly number[];
  readonly tensors: readonly Tensor[];
}

function stampOf(from: readonly (TensorCore | number | null)[]): number[] | null {
  const stamp: number[] = [];
  for (const each of from) {
    if (each === null) stamp.push(0);
    else if (typeof each === "number") stamp.push(each);
    else {
      const [handle, version] = each.stamp;
      if (version < 0) return null; // made in inference mode: nobody counts its changes
      stamp.push(handle, version);
    }
  }
  return stamp;
}

/**
 * What `make` computes, computed once for as long as `from` stays as it is: tensors neither replaced nor changed in place,
 * numbers equal. The result belongs to `owner` and is freed with it; `key` tells what is kept there apart. Where changes
 * cannot be seen nothing is kept, and the result is the running scope's. `make` must not record a graph.
 */
export function derived(
  owner: TensorCore,
  key: object,
  from: readonly (TensorCore | number | null)[],
  make: () => readonly Tensor[],
): readonly Tensor[] {
  const stamp = stampOf(from);
  if (stamp === null) return scope(make);
  const known = owner.derived?.get(key);
  if (known?.stamp.length === stamp.length && known.stamp.every((n, i) => n === stamp[i])) return known.tensors;
  const tensors = scope(make);
  for (const each of tensors) keep(each);
  for (const each of known?.tensors ?? []) each.dispose();
  owner.derived ??= new Map();
  owner.derived.set(key, { stamp, tensors });
  return tensors;
}
