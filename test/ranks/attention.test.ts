/** Ulysses, Ring and both give what one device gives: with text in front, with padding, in windows, at lengths that do not divide. */
import { describe, expect, test } from "bun:test";
import { onRanks } from "../support/ranks.ts";
import type { AttentionCase } from "./attention.ts";

interface Compared {
  readonly video: number;
  readonly text: number;
  readonly sameText: boolean;
}
const compare = (size: number, of: AttentionCase): Promise<Compared[]> =>
  onRanks<Compared>(size, "test/ranks/attention.ts", "compare", of);

/**
 * Values are drawn from N(0, 1), an output is a weighted mean of them: at most about 4. Parts and whole sum the same terms
 * in another order, a few roundings of 2^-24 each.
 */
const FLOAT32 = 4 * 16 * 2 ** -24;
/** Each part leaves its kernel with 8 bits. */
const BFLOAT16 = 4 * 2 ** -8;

async function holds(size: number, of: AttentionCase, limit = FLOAT32): Promise<void> {
  for (const { video, text, sameText } of await compare(size, of)) {
    expect(video).toBeLessThanOrEqual(limit);
    expect(text).toBeLessThanOrEqual(limit);
    // text is computed on every rank: all must keep the same
    expect(sameText).toBeTrue();
  }
}

describe("ulysses", () => {
  test("2 ranks, 21 tokens", () => holds(2, { batch: 2, heads: 4, tokens: 21, mode: "ulysses" }));
  test("4 ranks, with text and padding", () =>
    holds(4, { batch: 3, heads: 4, tokens: 22, prefix: 5, masked: true, mode: "ulysses" }));
  test("spatial windows that the ranks cut through", () =>
    holds(2, { batch: 2, heads: 2, tokens: [3, 5, 4], windows: "spatial", prefix: 4, masked: true, mode: "ulysses" }));
});

describe("ring", () => {
  test("2 ranks, 21 tokens, 3 heads", () => holds(2, { batch: 2, heads: 3, tokens: 21, mode: "ring" }));
  test("4 ranks, with text and padding", () =>
    holds(4, { batch: 3, heads: 1, tokens: 22, prefix: 5, masked: true, mode: "ring" }));
  test("spatial windows that the ranks cut through", () =>
    holds(3, { batch: 2, heads: 1, tokens: [3, 5, 4], windows: "spatial", prefix: 4, masked: true, mode: "ring" }));
  test("temporal windows without text", () =>
    holds(4, { batch: 1, heads: 1, tokens: [5, 2, 3], windows: "temporal", mode: "ring" }));
  test("bfloat16", () =>
    holds(2, { batch: 1, heads: 2, tokens: 40, prefix: 3, mode: "ring", dtype: "bfloat16" }, BFLOAT16));
});

describe("both", () => {
  test("6 heads on 4 ranks: Ulysses 2 in Ring 2", () => holds(4, { batch: 2, heads: 6, tokens: 23, prefix: 3 }));
  test("as told, in temporal windows", () =>
    holds(4, { batch: 2, heads: 4, tokens: [4, 3, 3], windows: "temporal", prefix: 3, masked: true, ulysses: 2 }));
});

describe("what does not fit is one sentence", () => {
  const refusal = (size: number, of: AttentionCase): Promise<string> =>
    compare(size, of).then(
      () => "nothing was thrown",
      (error: unknown) => String(error),
    );
  test("heads and Ulysses", async () => {
    const said = await refusal(2, { batch: 1, heads: 3, tokens: 8, mode: "ulysses" });
    expect(said).toContain("3 heads do not divide by parallel.ulysses 2");
  });
  test("fewer tokens than ranks", async () => {
    expect(await refusal(3, { batch: 1, heads: 3, tokens: 2 })).toContain("2 tokens cannot be spread over 3 ranks");
  });
});
