/** What people prefer: votes on pairs of videos -> ratings and GSB scores. */
import { defineOperation, definePlugin, z } from "../index.ts";

const operation = defineOperation({
  kind: "query",
  summary:
    "votes on pairs of videos -> an Elo with its interval for each model, good/same/bad for each pair and dimension",
  runs: "worker",
  input: z.strictObject({
    votes: z.string().meta({
      description: "JSON list or JSON lines of {a, b, winner: a|b|same, dimension?}, a and b naming models",
      format: "path",
      positional: 0,
    }),
  }),
  output: z.object({
    models: z.array(
      z.object({
        model: z.string(),
        elo: z.number(),
        /** 95 % interval. */
        low: z.number(),
        high: z.number(),
        sequentialElo: z.number(),
        votes: z.int(),
      }),
    ),
    pairs: z.array(
      z.object({
        ...{ a: z.string(), b: z.string(), dimension: z.string() },
        ...{ good: z.int(), same: z.int(), bad: z.int(), score: z.number() },
        ...{ goodRate: z.number(), sameRate: z.number(), badRate: z.number(), winRate: z.number() },
      }),
    ),
  }),
  slots: {},
  examples: ["waver preference votes.jsonl"],
  async run({ votes }) {
    const { readVotes } = await import("./votes.ts");
    const { preference } = await import("./preference.ts");
    return preference(await readVotes(votes));
  },
});

export default definePlugin({
  name: "evaluate-preference",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [],
  operations: { preference: operation },
});
