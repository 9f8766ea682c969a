/** One number a model from comparisons in pairs: Bradley-Terry by maximum likelihood, and Elo as votes come in. */
import { WaverError } from "../index.ts";

/** Who met whom, and the first one's share of the point: 1, 0, or 0.5 for a tie. */
export type Match = readonly [a: number, b: number, share: number];

/** Elo's scale: 400 points are odds of ten to one. */
const POINTS = 400 / Math.log(10);
const START = 1000;
/** Standard deviations of the normal distribution that hold 95 %. */
const Z95 = 1.959963984540054;

export interface Ratings {
  /** Log strengths, mean 0. */
  readonly theta: readonly number[];
  readonly elo: readonly number[];
  /** Half width of the 95 % interval of each Elo, from the curvature of the likelihood. */
  readonly margin: readonly number[];
  readonly logLikelihood: number;
  /** wins[a][b]: points of a against b. */
  readonly wins: readonly (readonly number[])[];
}

/**
 * P(a beats b) = 1 / (1 + exp(theta_b - theta_a)), a tie half a win for each (Bradley and Terry 1952). Minorise and maximise
 * (Hunter 2004, eq. 3), which climbs at every step; the answer exists only where everybody can be reached by wins both ways.
 */
export function bradleyTerry(names: readonly string[], matches: readonly Match[]): Ratings {
  const n = names.length;
  const wins = names.map(() => new Array<number>(n).fill(0));
  for (const [a, b, share] of matches) {
    (wins[a] as number[])[b] = (wins[a]?.[b] as number) + share;
    (wins[b] as number[])[a] = (wins[b]?.[a] as number) + 1 - share;
  }
  const won = (a: number, b: number): number => wins[a]?.[b] as number;
  refuseSplit(names, won);
  const points = wins.map((row) => row.reduce((sum, each) => sum + each, 0));
  let strength = names.map(() => 1);
  for (let i = 0; i < 100_000; i++) {
    const next = strength.map((own, a) => {
      const met = strength.reduce(
        (sum, other, b) => (a === b ? sum : sum + (won(a, b) + won(b, a)) / (own + other)),
        0,
      );
      return (points[a] as number) / met;
    });
    const scale = Math.exp(next.reduce((sum, each) => sum + Math.log(each), 0) / n);
    const settled = next.map((each) => each / scale);
    const moved = Math.max(...settled.map((each, a) => Math.abs(Math.log(each / (strength[a] as number)))));
    strength = settled;
    if (moved < 1e-13) break;
  }
  const theta = strength.map(Math.log);
  const beats = (a: number, b: number): number => 1 / (1 + Math.exp((theta[b] as number) - (theta[a] as number)));
  const pairs = names.flatMap((_, a) => names.map((_, b) => [a, b] as const)).filter(([a, b]) => a !== b);
  return {
    theta,
    elo: theta.map((each) => START + POINTS * each),
    margin: deviations(n, (a, b) => (won(a, b) + won(b, a)) * beats(a, b) * beats(b, a)).map(
      (each) => Z95 * POINTS * each,
    ),
    logLikelihood: pairs.reduce((sum, [a, b]) => sum + won(a, b) * Math.log(beats(a, b)), 0),
    wins,
  };
}

/** Elo's rule, one vote after another: what is new counts most, and the order matters. */
export function sequentialElo(count: number, matches: readonly Match[], k = 32): number[] {
  const ratings = new Array<number>(count).fill(START);
  for (const [a, b, share] of matches) {
    const expected = 1 / (1 + 10 ** (((ratings[b] as number) - (ratings[a] as number)) / 400));
    ratings[a] = (ratings[a] as number) + k * (share - expected);
    ratings[b] = (ratings[b] as number) - k * (share - expected);
  }
  return ratings;
}

/** Somebody who only ever won, or a group that never lost to the rest, has no finite rating. */
function refuseSplit(names: readonly string[], won: (a: number, b: number) => number): void {
  for (const beats of [won, (a: number, b: number) => won(b, a)]) {
    const reached = new Set([0]);
    for (const a of reached) for (let b = 0; b < names.length; b++) if (beats(a, b) > 0) reached.add(b);
    if (reached.size === names.length) continue;
    const apart = names.filter((_, i) => !reached.has(i));
    throw new WaverError(
      "invalid_input",
      `the votes do not tie all models together: between ${names[0]} and ${apart.join(", ")} one side won everything or they never met`,
      { hint: "collect more votes, or leave those models out" },
    );
  }
}

/** Square roots of the diagonal of the pseudo-inverse of the information matrix, a Laplacian: (H + J/n)^-1 - J/n. */
function deviations(n: number, information: (a: number, b: number) => number): number[] {
  const rows = Array.from({ length: n }, (_, a) => {
    const row = Array.from({ length: n }, (_, b) => (a === b ? 0 : -information(a, b)));
    row[a] = -row.reduce((sum, each) => sum + each, 0);
    return [...row.map((each) => each + 1 / n), ...Array.from({ length: n }, (_, b) => (a === b ? 1 : 0))];
  });
  for (let i = 0; i < n; i++) {
    const pivot = rows[i] as number[];
    const scale = pivot[i] as number; // positive: the matrix is positive definite
    for (let k = 0; k < 2 * n; k++) pivot[k] = (pivot[k] as number) / scale;
    for (const row of rows) {
      if (row === pivot) continue;
      const factor = row[i] as number;
      for (let k = 0; k < 2 * n; k++) row[k] = (row[k] as number) - factor * (pivot[k] as number);
    }
  }
  return rows.map((row, i) => Math.sqrt(Math.max(0, (row[n + i] as number) - 1 / n)));
}
