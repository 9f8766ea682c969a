/** What attention.test.ts runs in every rank: attention over spread tokens beside the same over whole ones. */
import {
  cat,
  Generator,
  keep,
  Mesh,
  overTokens,
  randn,
  type SequenceMode,
  SequenceParallel,
  scope,
  type Tensor,
  type TokenPattern,
  tensor,
  tokenAttention,
  withTokenPolicy,
} from "../../native/index.ts";
import { gridWindows } from "../../plugins/waver/windows.ts";
import type { Rank, RankCases } from "../support/ranks.ts";

export interface AttentionCase {
  readonly batch: number;
  readonly heads: number;
  /** Tokens behind the prefix, or a grid of them that is cut into windows. */
  readonly tokens: number | readonly [t: number, h: number, w: number];
  readonly windows?: "spatial" | "temporal";
  readonly prefix?: number;
  /** Whether some of the prefix is padding. */
  readonly masked?: boolean;
  readonly mode?: SequenceMode;
  readonly ulysses?: number;
  readonly dtype?: "bfloat16";
}

const HEAD_DIM = 8;

export const cases = {
  /** Largest distance from whole attention on this rank, and whether this rank's prefix is that of rank 0 to the bit. */
  compare: ({ store, world }: Rank, of: AttentionCase) => {
    using generator = new Generator(5);
    using mesh = new Mesh(store, world);
    return scope(() => {
      const { batch: B, heads, prefix = 0, mode, ulysses } = of;
      const grid = typeof of.tokens === "number" ? null : of.tokens;
      const L = typeof of.tokens === "number" ? of.tokens : of.tokens.reduce((a, b) => a * b, 1);
      const draw = (): Tensor => randn([B, prefix + L, heads, HEAD_DIM], { generator }).to(of.dtype ?? "float32");
      const [q, k, v] = [draw(), draw(), draw()] as const;
      const pattern: TokenPattern = {
        prefix,
        mask:
          of.masked === true
            ? // the last sample has no real token in its prefix at all
              tensor(
                Array.from({ length: B }, (_, b) => [
                  [Array.from({ length: prefix + L }, (_, i) => i >= prefix || (b < B - 1 && i <= b))],
                ]),
              )
            : null,
        windows:
          grid === null || of.windows === undefined
            ? undefined
            : gridWindows(
                { t: grid[0], h: grid[1], w: grid[2] },
                { kind: "count", spatial: [2, 2, 1], temporal: [1, 1, 2] },
                of.windows,
              ).map((group) => ({ ...group, index: tensor(group.tokens, { dtype: "int64" }) })),
      };
      const behind = (x: Tensor): Tensor => x.narrow(1, prefix, L);
      const front = (x: Tensor): Tensor => x.narrow(1, 0, prefix);
      const whole = tokenAttention(q, k, v, pattern);
      let text: Tensor | null = null;
      const spread = withTokenPolicy(new SequenceParallel(mesh, { mode, ulysses }), () =>
        scope(() => {
          const video = overTokens({ q: [behind(q), 1], k: [behind(k), 1], v: [behind(v), 1] }, (local) => {
            const joined = (x: Tensor, mine: Tensor): Tensor => (prefix === 0 ? mine : cat([front(x), mine], 1));
            const out = tokenAttention(joined(q, local.q), joined(k, local.k), joined(v, local.v), pattern);
            text = keep(out.narrow(1, 0, prefix)); // all else that was made here goes
            return out.narrow(1, prefix, local.q.size(1)).flatten(2);
          });
          return { video, text };
        }),
      );
      const far = (a: Tensor, b: Tensor): number =>
        a.numel === 0 ? 0 : a.to("float32").sub(b.to("float32")).abs().max().item();
      using ofText = spread.text as unknown as Tensor;
      const first = ofText.clone().contiguous();
      if (prefix > 0) world.broadcast(first, 0);
      return {
        video: far(spread.video, behind(whole).flatten(2)),
        text: far(ofText, front(whole)),
        sameText: far(ofText, first) === 0,
      };
    });
  },
} satisfies RankCases;
