// Heads in and out of the channel axis, and attention between.
import { EngineError } from "../errors.ts";
import { type AttentionOptions, scaledDotProductAttention } from "../functional.ts";
import { cat, tensor } from "../ops.ts";
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

/**
 * Attention within consecutive segments of a packed sequence: q, k, v [1, H, S, d], lengths of the segments (their sum
 * is S) -> [1, H, S, d]. Segments of one length are one call, however many there are.
 */
export function segmentedAttention(q: Tensor, k: Tensor, v: Tensor, lengths: readonly number[]): Tensor {
  const total = lengths.reduce((a, b) => a + b, 0);
  if (q.size(0) !== 1 || total !== q.size(2))
    throw new EngineError("tensor_shape", `segmentedAttention: segments of ${total} tokens in all for [${q.shape}]`);
  if (lengths.length === 1) return scaledDotProductAttention(q, k, v);
  return scope(() => {
    const byLength = Map.groupBy(segmentsOf(lengths), ({ length }) => length);
    const order: number[] = [];
    const parts: Tensor[] = [];
    for (const [length, segments] of byLength) {
      const rows = segments.flatMap(({ start }) => Array.from({ length }, (_, i) => start + i));
      order.push(...rows);
      // [1 H n*length d] -> [n H length d]
      const pick = (x: Tensor): Tensor => {
        const chosen = byLength.size === 1 ? x : x.indexSelect(2, tensor(rows, { dtype: "int64", device: x.device }));
        return chosen.squeeze(0).unflatten(1, [segments.length, length]).transpose(0, 1);
      };
      parts.push(scaledDotProductAttention(pick(q), pick(k), pick(v)).transpose(0, 1).flatten(1, 2));
    }
    const seen = cat(parts, 1).unsqueeze(0);
    if (byLength.size === 1) return seen;
    const back = new Array<number>(total);
    order.forEach((row, at) => {
      back[row] = at;
    });
    return seen.indexSelect(2, tensor(back, { dtype: "int64", device: q.device }));
  });
}

function segmentsOf(lengths: readonly number[]): { start: number; length: number }[] {
  let start = 0;
  return lengths.map((length) => {
    const segment = { start, length };
    start += length;
    return segment;
  });
}
