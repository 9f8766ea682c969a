/** Networks know nothing of ranks, and give on several of them what they give on one. */
import { describe, expect, test } from "bun:test";
import { onRanks } from "../support/ranks.ts";
import type { NetworkCase } from "./networks.ts";

interface Compared {
  readonly largest: number;
  readonly otherKernels: number;
  readonly spread: number;
  readonly sharded: number;
  readonly kept: number;
}

/** As golden/README.md: 16 times what other kernels change, at least 16 roundings of float32 at the largest value. */
const limit = ({ largest, otherKernels }: Compared): number => 16 * Math.max(otherKernels, 2 ** -24 * largest);

async function holds(ranks: number, of: NetworkCase): Promise<Compared[]> {
  const all = await onRanks<Compared>(ranks, "test/ranks/networks.ts", "compare", of);
  for (const each of all) {
    expect(each.largest).toBeGreaterThan(0.1);
    expect(each.spread).toBeLessThanOrEqual(limit(each));
    expect(each.sharded).toBeLessThanOrEqual(limit(each));
  }
  return all;
}

describe("wan", () => {
  test("2 ranks, Ulysses", () => holds(2, { network: "wan", heads: 2, size: [3, 6, 10], batch: 2, mode: "ulysses" }));
  test("4 ranks, 3 heads: Ring", () => holds(4, { network: "wan", heads: 3, size: [3, 6, 10], batch: 1 }));
  test("4 ranks, 2 heads: both; a time a token", () =>
    holds(4, { network: "wan", heads: 2, size: [2, 6, 10], batch: 2, tokenTimes: true }));
});

describe("waver", () => {
  test("2 ranks, Ulysses, padded text of two encoders", () =>
    holds(2, { network: "waver", heads: 2, size: [3, 6, 10], batch: 2, mode: "ulysses" }));
  test("4 ranks, 3 heads: Ring", () => holds(4, { network: "waver", heads: 3, size: [3, 6, 10], batch: 2 }));
  test("the refiner's windows on 2 ranks, Ulysses", () =>
    holds(2, { network: "refiner", heads: 2, size: [4, 8, 12], batch: 2 }));
  test("the refiner's windows on 3 ranks, Ring", () =>
    holds(3, { network: "refiner", heads: 2, size: [3, 10, 6], batch: 2, mode: "ring" }));
});

describe("gradients through Ulysses, averaged over ranks, are those of one device", () => {
  test.each([
    ["wan", 2],
    ["waver", 4],
    ["refiner", 2],
  ] as const)("%s on %d ranks", async (network, ranks) => {
    const of: NetworkCase = { network, heads: 4, size: [2, 6, 6], batch: 2, mode: "ulysses" };
    for (const each of await onRanks<{ otherKernels: number; spread: number; weights: number }>(
      ranks,
      "test/ranks/networks.ts",
      "gradients",
      of,
    )) {
      expect(each.weights).toBeGreaterThan(40);
      // relative to each weight's own largest gradient
      expect(each.spread).toBeLessThanOrEqual(16 * Math.max(each.otherKernels, 2 ** -20));
    }
  });
  test("a ring says that it has none", async () => {
    const of: NetworkCase = { network: "wan", heads: 3, size: [2, 6, 6], batch: 1, mode: "ring" };
    const error: unknown = await onRanks(2, "test/ranks/networks.ts", "gradients", of).catch(
      (thrown: unknown) => thrown,
    );
    expect(String(error)).toContain("gradients do not go round a ring yet");
  });
});

describe("weights in parts", () => {
  test("each of 2 ranks keeps half of a Wan's blocks", async () => {
    for (const { kept } of await holds(2, { network: "wan", heads: 2, size: [2, 4, 6], batch: 1, shard: true }))
      expect(kept).toBeCloseTo(1 / 2, 2);
  });
  test.each(["wan", "waver"] as const)(
    "%s: no rank of 4 ever holds all blocks, also while it loads",
    async (network) => {
      const of: NetworkCase = { network, heads: 8, size: [2, 4, 6], batch: 1 };
      for (const { kept, peak, distance, left, largest } of (await onRanks<Record<string, number>>(
        4,
        "test/ranks/networks.ts",
        "loading",
        of,
      )) as { kept: number; peak: number; distance: number; left: number; largest: number }[]) {
        expect(kept).toBeCloseTo(1 / 4, 1);
        // its quarter, and one block of 3 or 5 while that is cut: whole, in a row, and its part
        expect(peak).toBeLessThan(network === "wan" ? 1 : 0.85);
        expect(distance).toBeLessThanOrEqual(64 * 2 ** -24 * largest);
        expect(left).toBe(0);
      }
    },
  );
  test("each of 4 ranks keeps a quarter of a Waver's blocks", async () => {
    for (const { kept } of await holds(4, { network: "waver", heads: 2, size: [2, 4, 6], batch: 1, shard: true }))
      expect(kept).toBeCloseTo(1 / 4, 2);
  });
  test.each([
    ["wan", "int8"],
    ["wan", "fp8"],
    ["waver", "fp8"],
  ] as const)("%s in %s: each of 2 ranks keeps half of the bytes, and computes the same", async (network, form) => {
    const of = { network, heads: 4, size: [2, 4, 6], batch: 1, form };
    for (const { kept, smaller, distance, largest } of (await onRanks<Record<string, number>>(
      2,
      "test/ranks/networks.ts",
      "quantised",
      of,
    )) as { kept: number; smaller: number; distance: number; largest: number }[]) {
      expect(kept).toBeCloseTo(1 / 2, 2);
      // a quarter, and what stays in float32: scales, biases, norms, and Waver's modulations (a third of its weights)
      expect(smaller).toBeLessThan(network === "wan" ? 0.4 : 0.6);
      expect(distance).toBeLessThanOrEqual(64 * 2 ** -24 * largest);
    }
  });
});
