// Heads in and out of the channel axis, and attention between.
import { type AttentionOptions, scaledDotProductAttention } from "../functional.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";

/** [B, S, H * d] -> [B, H, S, d], a view */
export function splitHeads(x: Tensor, heads: number): Tensor {
  return scope(() => x.unflatten(-1, [heads, -1]).transpose(1, 2));
}

/** [B, H, S, d] -> [B, S, H * d] */
export function mergeHeads(x: Tensor): Tensor {
  return scope(() => x.transpose(1, 2).flatten(2, 3));
}

/** q [B, Sq, H * d], k and v [B, Sk, H * d] -> [B, Sq, H * d] */
export function multiHeadAttention(q: Tensor, k: Tensor, v: Tensor, heads: number, options?: AttentionOptions): Tensor {
  return scope(() =>
    mergeHeads(scaledDotProductAttention(splitHeads(q, heads), splitHeads(k, heads), splitHeads(v, heads), options)),
  );
}
