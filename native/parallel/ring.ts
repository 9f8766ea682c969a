/**
 * Keys and values go round a ring of ranks; each rank sees one stretch of them at a time with its own queries, while the
 * next stretch is on its way, and merges what it saw by the logarithms of the weights.
 *
 * The prefix is whole everywhere: its keys are a stretch of their own, and what its queries saw is merged in the same order
 * on all ranks, so that all keep the same text to the bit.
 *
 * Axes: B batch, P prefix, l tokens of this rank, m of the stretch that is here, h heads, d head dim.
 */

import { one } from "../call.ts";
import type { Pending, ProcessGroup } from "../dist.ts";
import { EngineError } from "../errors.ts";
import type { TokenPattern, TokenWindows } from "../nn/tokens.ts";
import { cat, empty, full, stack, tensor, zeros } from "../ops.ts";
import { needsGraph } from "../precision.ts";
import { schema } from "../schema.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { merged, NOTHING, type Part, partOf } from "./merge.ts";

const INDEX_COPY = schema("aten::index_copy");

export class RingAttention {
  readonly #group: ProcessGroup;
  readonly #lengths: readonly number[];

  /** `lengths`: tokens of each rank of the ring. */
  constructor(group: ProcessGroup, lengths: readonly number[]) {
    this.#group = group;
    this.#lengths = lengths;
  }

  /** q, k, v [B P+l h d] -> [B P+l h d] */
  attend(q: Tensor, k: Tensor, v: Tensor, { prefix = 0, mask = null, windows }: TokenPattern): Tensor {
    if (needsGraph(q, k, v))
      throw new EngineError(
        "ranks_unfit",
        "gradients do not go round a ring yet",
        "train with parallel.attention ulysses, on as many ranks as divide the heads",
      );
    const { rank, size } = this.#group;
    const l = this.#lengths[rank] as number;
    const [queries, keys, values] = [q, k, v].map((x) => x.transpose(1, 2)) as [Tensor, Tensor, Tensor]; // [B h P+l d]
    const ofPrefix = (x: Tensor): Tensor => x.narrow(2, 0, prefix);
    const behind = (x: Tensor): Tensor => x.narrow(2, prefix, l);

    let video: Part | null = null;
    const text: Part[] = []; // by stretch, the prefix's own first
    const see = (seen: Part): void => {
      video = video === null ? seen : merged(video, seen);
    };
    if (prefix > 0) {
      const part = partOf(queries, ofPrefix(keys), ofPrefix(values), additive(mask, prefix, q));
      text.push(rows(part, 0, prefix));
      see(rows(part, prefix, l));
    }
    let here = stack([behind(keys), behind(values)]); // [2 B h m d]
    for (let step = 0; step < size; step++) {
      const block = (rank - step + size) % size;
      const next = step + 1 < size ? this.#pass(here, (block - 1 + size) % size, step) : null;
      const [k, v] = here.unbind(0) as [Tensor, Tensor];
      if (windows === undefined) {
        const part = partOf(queries, k, v);
        if (prefix > 0) text[1 + block] = rows(part, 0, prefix);
        see(rows(part, prefix, l));
      } else {
        if (prefix > 0) text[1 + block] = partOf(ofPrefix(queries), k, v);
        const part = this.#inWindows(behind(queries), k, v, windows, block);
        if (part !== null) see(part);
      }
      if (next === null) break;
      for (const each of next.pending) each.wait();
      here = next.stretch;
    }
    const all = text.length === 0 ? [] : [text.reduce(merged).out];
    return cat([...all, (video as unknown as Part).out], 2)
      .to(q.dtype)
      .transpose(1, 2);
  }

  /** Starts sending this stretch on and taking the one before it. */
  #pass(stretch: Tensor, block: number, step: number): { stretch: Tensor; pending: Pending[] } {
    const { rank, size } = this.#group;
    const [two, B, h, , d] = stretch.shape as [number, number, number, number, number];
    const coming = empty([two, B, h, this.#lengths[block] as number, d], stretch);
    return {
      stretch: coming,
      pending: [
        this.#group.receive(coming, (rank - 1 + size) % size, step),
        this.#group.send(stretch, (rank + 1) % size, step),
      ],
    };
  }

  /** What queries [B h l d] see of a stretch through their windows; null when no window reaches into it. */
  #inWindows(q: Tensor, k: Tensor, v: Tensor, windows: readonly TokenWindows[], block: number): Part | null {
    const offset = (rank: number): number => this.#lengths.slice(0, rank).reduce((a, b) => a + b, 0);
    const mine = { from: offset(this.#group.rank), length: q.size(2) };
    const theirs = { from: offset(block), length: k.size(2) };
    const pairs = meetings(windows, mine, theirs);
    if (pairs.length === 0) return null;
    return scope(() => {
      const [B, h, l, d] = q.shape as [number, number, number, number];
      const device = q.device;
      let out = zeros([B, h, l, d], { device });
      let lse = full([B, h, l], NOTHING, { device });
      for (const { count: n, queries, keys } of pairs) {
        const select = (x: Tensor, numbers: readonly number[]): Tensor =>
          x
            .indexSelect(2, tensor(Int32Array.from(numbers), { device }))
            .unflatten(2, [n, -1])
            .transpose(1, 2)
            .flatten(0, 1);
        const part = partOf(select(q, queries), select(k, keys), select(v, keys)); // [B*n h ..]
        const rows = tensor(Int32Array.from(queries), { dtype: "int64", device });
        const back = (x: Tensor): Tensor => x.unflatten(0, [B, n]).transpose(1, 2).flatten(2, 3);
        out = one(INDEX_COPY, out, 2, rows, back(part.out));
        lse = one(INDEX_COPY, lse, 2, rows, back(part.lse));
      }
      return { out, lse };
    });
  }
}

interface Stretch {
  readonly from: number;
  readonly length: number;
}
/** `count` windows, each with as many of my queries and of their keys; token numbers within the stretches. */
interface Meeting {
  count: number;
  readonly queries: number[];
  readonly keys: number[];
}

/** Windows that have tokens in both stretches, gathered by how many. */
export function meetings(windows: readonly TokenWindows[], mine: Stretch, theirs: Stretch): Meeting[] {
  const bySize = new Map<string, Meeting>();
  const within = (tokens: Int32Array, { from, length }: Stretch): number[] =>
    Array.from(tokens, (token) => token - from).filter((at) => at >= 0 && at < length);
  for (const { numWindows, length, tokens } of windows)
    for (let w = 0; w < numWindows; w++) {
      const window = tokens.subarray(w * length, (w + 1) * length);
      const [queries, keys] = [within(window, mine), within(window, theirs)];
      if (queries.length === 0 || keys.length === 0) continue;
      const size = `${queries.length} ${keys.length}`;
      const known = bySize.get(size) ?? { count: 0, queries: [], keys: [] };
      known.count += 1;
      known.queries.push(...queries);
      known.keys.push(...keys);
      bySize.set(size, known);
    }
  return [...bySize.values()];
}

const rows = ({ out, lse }: Part, from: number, count: number): Part => ({
  out: out.narrow(2, from, count),
  lse: lse.narrow(2, from, count),
});

/** Of a bool mask [B 1 1 P + ..] the prefix's part, as something to add to scores. */
function additive(mask: Tensor | null, prefix: number, like: Tensor): Tensor | null {
  if (mask === null) return null;
  return scope(() => {
    const real = mask.narrow(-1, 0, prefix);
    return zeros(real.shape, { dtype: like.dtype, device: like.device }).maskedFill_(real.logicalNot(), NOTHING);
  });
}
