/** Votes to ratings and pairs. */
import { type Gsb, gsbScore } from "./gsb.ts";
import { bradleyTerry, type Match, sequentialElo } from "./ratings.ts";
import type { Vote } from "./votes.ts";

const SHARE = { a: 1, same: 0.5, b: 0 } as const;

export function preference(votes: readonly Vote[]) {
  const names = [...new Set(votes.flatMap(({ a, b }) => [a, b]))].sort();
  const place = new Map(names.map((name, i) => [name, i]));
  const matches = votes.map(
    ({ a, b, winner }): Match => [place.get(a) as number, place.get(b) as number, SHARE[winner]],
  );
  const { elo, margin } = bradleyTerry(names, matches);
  const inOrder = sequentialElo(names.length, matches);
  const models = names.map((model, i) => ({
    model,
    elo: elo[i] as number,
    low: (elo[i] as number) - (margin[i] as number),
    high: (elo[i] as number) + (margin[i] as number),
    sequentialElo: inOrder[i] as number,
    votes: votes.filter(({ a, b }) => a === model || b === model).length,
  }));
  return { models: models.sort((x, y) => y.elo - x.elo), pairs: pairsOf(votes) };
}

/** Every pair that met, by dimension, the first name by the alphabet against the second. */
function pairsOf(votes: readonly Vote[]) {
  const counts = new Map<string, { a: string; b: string; dimension: string } & Record<keyof Gsb, number>>();
  for (const { a, b, winner, dimension = "overall" } of votes) {
    const [first, second] = a < b ? [a, b] : [b, a];
    const key = JSON.stringify([first, second, dimension]);
    const row = counts.get(key) ?? { a: first, b: second, dimension, good: 0, same: 0, bad: 0 };
    const outcome = winner === "same" ? "same" : (winner === "a") === (a === first) ? "good" : "bad";
    counts.set(key, { ...row, [outcome]: row[outcome] + 1 });
  }
  return [...counts.values()].map(({ a, b, dimension, ...gsb }) => ({ a, b, dimension, ...gsbScore(gsb) }));
}
