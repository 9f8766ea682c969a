import { describe, expect, test } from "bun:test";
import { LOOPBACK_IN_PROC, onRanks, settledOnRanks } from "../test/support/ranks.ts";
import { RankStore } from "./index.ts";

const run = <T>(size: number, name: string): Promise<T[]> => onRanks<T>(size, "test/support/collectives.ts", name);
const marked = (rank: number, rows: number): number[] => Array.from({ length: rows * 3 }, (_, i) => 100 * rank + i);
const ranksOf = (size: number): number[] => Array.from({ length: size }, (_, rank) => rank);
const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);

describe.each([2, 4])("%d ranks", (size) => {
  const ranks = ranksOf(size);

  test("reduce, gather, scatter and broadcast any dtype", async () => {
    const all = await run<Record<string, number[]>>(size, "moves");
    for (const [rank, each] of all.entries()) {
      expect(each["sum"]).toEqual(marked(0, 2).map((x) => x * size + 100 * sum(ranks)));
      expect(each["max"]).toEqual(marked(size - 1, 2));
      expect(each["gathered"]).toEqual(ranks.flatMap((r) => marked(r, 2)));
      // bfloat16 has 8 bits: 301 becomes 302, as it does on one rank
      expect(each["half"]?.slice(0, 6)).toEqual(marked(0, 2));
      expect(each["scattered"]).toEqual(
        marked(0, size)
          .slice(3 * rank, 3 * rank + 3)
          .map((x) => x * size + 100 * sum(ranks)),
      );
      expect(each["told"]).toEqual([size - 1, size - 1]);
      expect(each["flags"]).toEqual([1, 1]);
    }
  });

  test("all-to-all sends each rank rows of its own number, none among them", async () => {
    const all = await run<number[]>(size, "uneven");
    for (const [rank, got] of all.entries())
      expect(got).toEqual(
        rank === size - 1
          ? []
          : ranks.flatMap((from) =>
              marked(from, (from + 1) * (size - 1)).slice(3 * (from + 1) * rank, 3 * (from + 1) * (rank + 1)),
            ),
      );
  });

  test("neighbours send and receive at once", async () => {
    const all = await run<number[]>(size, "ring");
    expect(all).toEqual(ranks.map((rank) => marked((rank + size - 1) % size, 2)));
  });

  test("gradients come back through a collective", async () => {
    const all = await run<Record<string, number[]>>(size, "gradients");
    for (const [rank, { gathered, scattered, exchanged }] of all.entries()) {
      const x = marked(rank, size);
      // every rank's loss has this rank's rows in it
      expect(gathered).toEqual(x.map((v) => 2 * v * size));
      const total = marked(0, size).map((v) => v * size + 100 * sum(ranks));
      expect(scattered).toEqual(total.map((v) => 2 * v));
      expect(exchanged).toEqual(x.map((v, i) => 2 * v * (Math.floor(i / 3) + 1) ** 2));
    }
  });

  test("every socket is bound to loopback (reliability.md S5)", async () => {
    const all = await run<string[]>(size, "listening");
    // the store listens in rank 0 alone, Gloo in every rank
    expect(all.flat().length).toBeGreaterThan(size);
    expect([...new Set(all.flat())]).toEqual([LOOPBACK_IN_PROC]);
  });
});

test("groups of half the ranks work side by side", async () => {
  expect(await run<number>(4, "halves")).toEqual([1, 1, 5, 5]);
});

test("what cannot work is refused before it starts", async () => {
  for (const each of await run<Record<string, string>>(2, "refused"))
    expect(each).toEqual({ rows: "op_failed", divide: "op_failed", rank: "op_arguments", strided: "op_arguments" });
});

test("a rank that dies is an error in the others, not a wait", async () => {
  const [first, second, last] = await settledOnRanks<string>(3, "test/support/collectives.ts", "death");
  expect([first, second]).toEqual(Array(2).fill({ status: "fulfilled", value: "rank_lost" }));
  expect(String((last as PromiseRejectedResult).reason)).toContain("rank 2 ended early (SIGKILL)");
});

test("a store is never open to all interfaces", () => {
  expect(() => RankStore.serve({ host: "0.0.0.0", secret: "s" })).toThrow("name one address");
});
