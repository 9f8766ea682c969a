/** What native/dist.test.ts runs in every rank. */
import { arange, EngineError, full, ProcessGroup, scope, tensor } from "../../native/index.ts";
import { listening, type Rank, type RankCases } from "./ranks.ts";

/** [rows, 3], each element its rank, row and column in one number. */
const marked = (rank: number, rows: number) =>
  arange(rows * 3)
    .reshape([rows, 3])
    .add(100 * rank)
    .to("float32");

const failing = (fn: () => unknown): string => {
  try {
    fn();
    return "nothing was thrown";
  } catch (error) {
    return error instanceof EngineError ? error.code : String(error);
  }
};

export const cases = {
  moves: ({ rank, size, world }: Rank) =>
    scope(() => {
      const x = marked(rank, 2);
      const told = full([2], rank, { dtype: "bfloat16" });
      world.broadcast(told, size - 1);
      const flags = tensor([rank === 0, true]);
      world.broadcast(flags, 0);
      return {
        sum: world.allReduce(x).toNumbers(),
        max: world.allReduce(x, "max").toNumbers(),
        gathered: world.allGather(x).toNumbers(),
        half: world.allGather(x.to("bfloat16")).toNumbers(),
        scattered: world.reduceScatter(marked(rank, size)).toNumbers(),
        told: told.toNumbers(),
        flags: flags.toNumbers(),
      };
    }),

  /** Rank r sends r + 1 rows to everyone, the last of them nothing. */
  uneven: ({ rank, size, world }: Rank) =>
    scope(() => {
      const rows = (from: number, to: number): number => (to === size - 1 ? 0 : from + 1);
      const ranks = Array.from({ length: size }, (_, r) => r);
      const sends = ranks.map((to) => rows(rank, to));
      const x = marked(
        rank,
        sends.reduce((a, b) => a + b, 0),
      );
      return world
        .allToAll(
          x,
          sends,
          ranks.map((from) => rows(from, rank)),
        )
        .toNumbers();
    }),

  ring: ({ rank, size, world }: Rank) =>
    scope(() => {
      const got = full([2, 3], -1);
      const came = world.receive(got, (rank + size - 1) % size, 7);
      const went = world.send(marked(rank, 2), (rank + 1) % size, 7);
      came.wait();
      went.wait();
      return got.toNumbers();
    }),

  /** Two groups of half the ranks, at work at the same time. */
  halves: ({ rank, size, store }: Rank) =>
    scope(() => {
      const half = Math.floor((2 * rank) / size);
      using group = ProcessGroup.open(store, { name: `half ${half}`, rank: rank % (size / 2), size: size / 2 });
      const sum = group.allReduce(full([1], rank)).item();
      group.barrier();
      return sum;
    }),

  /** Gradients of a sum of squares after each collective, which a group of one would have had. */
  gradients: ({ rank, size, world }: Rank) =>
    scope(() => {
      const of = (make: (x: ReturnType<typeof marked>) => ReturnType<typeof marked>): number[] => {
        const x = marked(rank, size).requiresGrad_();
        make(x).square().sum().backward();
        const numbers = x.grad?.toNumbers() ?? [];
        x.dispose();
        return numbers;
      };
      const ones = Array<number>(size).fill(1);
      return {
        gathered: of((x) => world.allGather(x)),
        scattered: of((x) => world.reduceScatter(x)),
        exchanged: of((x) => world.allToAll(x, ones, ones).mul(rank + 1)),
      };
    }),

  listening: () => listening(),

  refused: ({ rank, size, world }: Rank) =>
    scope(() => ({
      rows: failing(() => world.allToAll(full([3], 0), [1, 1, 1, 1, 1].slice(0, size), [1, 1, 1, 1, 1].slice(0, size))),
      divide: failing(() => world.reduceScatter(full([size + 1], 0))),
      rank: failing(() => ProcessGroup.open(null as never, { name: "x", rank: size, size })),
      strided: failing(() => world.broadcast(marked(rank, 2).transpose(0, 1), 0)),
    })),

  /** The last rank dies inside a collective; the others hear of it. */
  death: ({ rank, size, world }: Rank) => {
    if (rank === size - 1) {
      // as late as can be: what others answer must leave first
      setTimeout(() => process.kill(process.pid, "SIGKILL"), 200);
      return new Promise(() => undefined);
    }
    return failing(() => scope(() => world.allReduce(full([4], 1)).item()));
  },
} satisfies RankCases;
