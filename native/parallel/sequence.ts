/**
 * One sequence on several ranks: each has a stretch of the tokens, and attention brings them together. Inside, Ulysses
 * (Jacobs et al. 2023, arXiv 2309.14509) trades tokens for heads, so that a rank has all tokens of some heads; outside, Ring
 * (Liu et al. 2023, arXiv 2310.01889) sends keys and values round and merges what each part gave. Both: Wan 4.3.
 *
 * Stretches differ by a token where the length does not divide; nothing is padded. A prefix (text) is whole on every rank.
 *
 * Axes: B batch, L tokens, l those of this rank, P of the prefix, H heads, h those of a Ulysses rank, d head dim.
 */
import { EngineError } from "../errors.ts";
import { type TokenPattern, type TokenPolicy, type TokenSpread, wholeAttention } from "../nn/tokens.ts";
import { cat, stack } from "../ops.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { degreesFor, type Mesh, type SequenceMode } from "./mesh.ts";
import { RingAttention } from "./ring.ts";

/** How many tokens each of `parts` gets: the first ones one more where it does not divide. */
export const stretches = (numTokens: number, parts: number): number[] =>
  Array.from({ length: parts }, (_, i) => Math.floor(numTokens / parts) + (i < numTokens % parts ? 1 : 0));

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);

export interface SequenceOptions {
  readonly mode?: SequenceMode;
  /** Ranks that exchange heads; with `auto` as many as heads allow. */
  readonly ulysses?: number | undefined;
}

export class SequenceParallel implements TokenPolicy {
  readonly #mesh: Mesh;
  readonly #options: SequenceOptions;

  constructor(mesh: Mesh, options: SequenceOptions = {}) {
    this.#mesh = mesh;
    this.#options = options;
  }

  spread(numTokens: number): TokenSpread {
    const { size } = this.#mesh.sequence;
    if (numTokens < size)
      throw new EngineError(
        "ranks_unfit",
        `${numTokens} tokens cannot be spread over ${size} ranks`,
        "use fewer ranks",
      );
    return new Spread(this.#mesh, this.#options, stretches(numTokens, size));
  }
}

class Spread implements TokenSpread {
  readonly #mesh: Mesh;
  readonly #options: SequenceOptions;
  /** Tokens of each rank of the sequence. */
  readonly #lengths: readonly number[];

  constructor(mesh: Mesh, options: SequenceOptions, lengths: readonly number[]) {
    this.#mesh = mesh;
    this.#options = options;
    this.#lengths = lengths;
  }

  scatter(x: Tensor, axis: number): Tensor {
    const { rank } = this.#mesh.sequence;
    return scope(() => x.narrow(axis, sum(this.#lengths.slice(0, rank)), this.#lengths[rank] as number).contiguous());
  }

  gather(x: Tensor): Tensor {
    return scope(() => {
      const most = this.#lengths[0] as number;
      const mine = x.transpose(0, 1); // [l B D]
      const even = x.size(1) === most ? mine : cat([mine, mine.narrow(0, 0, 1)], 0);
      const all = this.#mesh.sequence.allGather(even);
      const isEven = this.#lengths.every((n) => n === most);
      const whole = isEven ? all : cat(this.#lengths.map((n, rank) => all.narrow(0, rank * most, n)));
      return whole.transpose(0, 1).contiguous();
    });
  }

  attention(q: Tensor, k: Tensor, v: Tensor, pattern: TokenPattern): Tensor {
    return scope(() => {
      const { size } = this.#mesh.sequence;
      const degrees = degreesFor(size, q.size(2), this.#options.mode ?? "auto", this.#options.ulysses);
      const { ulysses } = degrees;
      // tokens of each ring rank: those of its Ulysses ranks, which follow each other
      const blocks = Array.from({ length: degrees.ring }, (_, r) =>
        sum(this.#lengths.slice(r * ulysses, (r + 1) * ulysses)),
      );
      const inner = (q: Tensor, k: Tensor, v: Tensor): Tensor =>
        degrees.ring === 1
          ? wholeAttention(q, k, v, pattern)
          : new RingAttention(this.#mesh.ring(degrees), blocks).attend(q, k, v, pattern);
      return ulysses === 1 ? inner(q, k, v) : this.#byHeads(q, k, v, pattern.prefix ?? 0, degrees, inner);
    });
  }

  /** q, k, v [B P+l H d] -> [B P+L' h d] for `inner`, and what it gives back to [B P+l H d]; L' of the Ulysses ranks together. */
  #byHeads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix: number,
    degrees: { ring: number; ulysses: number },
    inner: (q: Tensor, k: Tensor, v: Tensor) => Tensor,
  ): Tensor {
    const group = this.#mesh.ulysses(degrees);
    const { size, rank } = group;
    const [B, rows, H, d] = q.shape as [number, number, number, number];
    const l = rows - prefix;
    const h = H / size;
    const first = Math.floor(this.#mesh.sequence.rank / size) * size;
    const lengths = this.#lengths.slice(first, first + size);

    // to rank u: my tokens of its heads, as rows [l 3 B h d]
    const mine = stack([q, k, v]).narrow(2, prefix, l);
    const out = mine
      .unflatten(3, [size, h])
      .permute([3, 2, 0, 1, 4, 5])
      .reshape([size * l, 3, B, h, d]);
    const came = group.allToAll(out, Array<number>(size).fill(l), lengths);
    const ofVideo = came.permute([1, 2, 0, 3, 4]).unbind(0) as [Tensor, Tensor, Tensor];
    const joint = ([q, k, v] as const).map((x, i) =>
      prefix === 0 ? ofVideo[i] : cat([x.narrow(1, 0, prefix).narrow(2, rank * h, h), ofVideo[i] as Tensor], 1),
    ) as [Tensor, Tensor, Tensor];

    const attended = inner(...joint); // [B P+L' h d]
    // to rank u: the prefix and its tokens of my heads
    const tokens = attended.narrow(1, prefix, sum(lengths)).split(lengths, 1);
    const back = cat(
      tokens.map((x) => (prefix === 0 ? x : cat([attended.narrow(1, 0, prefix), x], 1))),
      1,
    ).transpose(0, 1);
    const sends = lengths.map((n) => prefix + n);
    return group
      .allToAll(back, sends, Array<number>(size).fill(rows))
      .unflatten(0, [size, rows])
      .permute([2, 1, 0, 3, 4])
      .reshape([B, rows, H, d]);
  }
}
