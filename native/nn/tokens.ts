/**
 * The tokens of a transformer, between the place where they are made and the place where they leave: in there only attention
 * mixes them. Networks are written for one device; `overTokens` and `tokenAttention` are where a policy may give each of
 * several ranks a part of the tokens (native/parallel), and what they compute is the same with and without one.
 *
 * Axes: B batch, L tokens, P tokens of the prefix, h heads, d head dim.
 */
import { scaledDotProductAttention } from "../functional.ts";
import { cat } from "../ops.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";

/** Windows of equal length, so that one attention call serves them all. */
export interface TokenWindows {
  readonly numWindows: number;
  /** Tokens in each window. */
  readonly length: number;
  /** Token numbers, window after window, counted behind the prefix. */
  readonly tokens: Int32Array;
  /** The same as int64. */
  readonly index: Tensor;
}

/** Who sees whom. By default all see all. */
export interface TokenPattern {
  /** The first tokens, which are whole everywhere (text in a joint sequence): they see all and are seen by all. */
  readonly prefix?: number;
  /** Keys that take part, bool [B 1 1 P + L]; only those of the prefix may be left out. Null: all. */
  readonly mask?: Tensor | null;
  /** A token behind the prefix sees its window and the prefix; every token is in one window. */
  readonly windows?: readonly TokenWindows[] | undefined;
}

/** Tokens of one forward, spread over ranks. */
export interface TokenSpread {
  /** This rank's part of x, which has all L tokens along `axis`. */
  scatter(x: Tensor, axis: number): Tensor;
  /** The parts of all ranks: [B l D] -> [B L D]. */
  gather(x: Tensor): Tensor;
  /** As `tokenAttention`, on this rank's part behind the whole prefix. */
  attention(q: Tensor, k: Tensor, v: Tensor, pattern: TokenPattern): Tensor;
}
export interface TokenPolicy {
  spread(numTokens: number): TokenSpread;
}

let policy: TokenPolicy | null = null;
let spread: TokenSpread | null = null;

/** Runs `fn` (synchronous) with tokens spread by a policy. */
export function withTokenPolicy<T>(chosen: TokenPolicy | null, fn: () => T): T {
  const before = policy;
  policy = chosen;
  try {
    return scope(fn);
  } finally {
    policy = before;
  }
}

/** A tensor and the axis along which its tokens lie; null for one that all tokens share. */
export type Along = readonly [tensor: Tensor, axis: number | null];

/**
 * Runs the blocks: `body` gets the tensors, under a policy only this rank's tokens of them, and returns tokens [B L D].
 * Inside, tokens may meet in `tokenAttention` alone.
 */
export function overTokens<K extends string>(
  inputs: Readonly<Record<K, Along>>,
  body: (local: Readonly<Record<K, Tensor>>) => Tensor,
): Tensor {
  const entries = Object.entries(inputs) as [K, Along][];
  const local = (part: (along: Along) => Tensor): Readonly<Record<K, Tensor>> =>
    Object.fromEntries(entries.map(([name, along]) => [name, part(along)])) as Record<K, Tensor>;
  const carried = entries.find(([, [, axis]]) => axis !== null)?.[1] as readonly [Tensor, number] | undefined;
  if (policy === null || carried === undefined) return body(local(([x]) => x));
  return scope(() => {
    const before = spread;
    const mine = (policy as TokenPolicy).spread(carried[0].size(carried[1]));
    spread = mine;
    try {
      return mine.gather(body(local(([x, axis]) => (axis === null ? x : mine.scatter(x, axis)))));
    } finally {
      spread = before;
    }
  });
}

/** Attention between the tokens that a network's blocks carry: q, k, v [B L h d] -> [B L h d]. */
export function tokenAttention(q: Tensor, k: Tensor, v: Tensor, pattern: TokenPattern = {}): Tensor {
  return spread === null ? wholeAttention(q, k, v, pattern) : spread.attention(q, k, v, pattern);
}

/** @internal The same where all tokens are here. */
export function wholeAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { prefix = 0, mask = null, windows }: TokenPattern,
): Tensor {
  const attend = (q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null): Tensor =>
    scaledDotProductAttention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), { mask }).transpose(1, 2);
  if (windows === undefined) return attend(q, k, v, mask);
  return scope(() => {
    const [B, L, heads, d] = q.shape as [number, number, number, number];
    const behind = (x: Tensor): Tensor => x.narrow(1, prefix, L - prefix);
    let out = behind(q).mul(0);
    for (const { index, numWindows: n, length } of windows) {
      // [B L h d] -> [B*n length h d], and with the prefix of the sample in front of every window
      const inWindows = (x: Tensor): Tensor =>
        behind(x)
          .indexSelect(1, index)
          .reshape([B * n, length, heads, d]);
      const withPrefix = (x: Tensor): Tensor =>
        cat(
          [
            x
              .narrow(1, 0, prefix)
              .unsqueeze(1)
              .expand([B, n, prefix, heads, d])
              .reshape([B * n, prefix, heads, d]),
            inWindows(x),
          ],
          1,
        );
      const windowMask = mask?.narrow(-1, 0, prefix + length).repeatInterleave(n, 0) ?? null;
      out = out.indexAdd(
        1,
        index,
        attend(inWindows(q), withPrefix(k), withPrefix(v), windowMask).reshape([B, n * length, heads, d]),
      );
    }
    return prefix === 0 ? out : cat([attend(q.narrow(1, 0, prefix), k, v, mask), out], 1);
  });
}
