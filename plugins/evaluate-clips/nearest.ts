/** Nearest training clips by cosine of features, and what pure chance would give. */
import type { EvalSet, Scores } from "../types.ts";

export interface Match {
  /** Index of the nearest reference. */
  readonly nearest: number;
  readonly similarity: number;
  readonly isPrompted: boolean;
  /** Best similarity among the prompted references, and its rank among all (1 = nearest). */
  readonly promptedSimilarity: number | null;
  readonly promptedRank: number | null;
}

export const cosine = (a: Float32Array, b: Float32Array): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
};

type Item = EvalSet["items"][number];
type Reference = EvalSet["references"][number];

/** A reference is the prompted one when it bears the prompt as its caption, or is the very clip that the item names. */
export const isPrompted = (item: Item, reference: Reference): boolean =>
  reference.caption.trim() === item.prompt.trim() || reference.video === item.reference;

export function match(
  item: Item,
  features: Float32Array,
  references: readonly Reference[],
  known: readonly Float32Array[],
): Match {
  const similarities = known.map((each) => cosine(features, each));
  const order = similarities
    .map((_, i) => i)
    .toSorted((a, b) => (similarities[b] as number) - (similarities[a] as number));
  const nearest = order[0] as number;
  const prompted = order.findIndex((i) => isPrompted(item, references[i] as Reference));
  return {
    nearest,
    similarity: similarities[nearest] as number,
    isPrompted: prompted === 0,
    promptedSimilarity: prompted < 0 ? null : (similarities[order[prompted] as number] as number),
    promptedRank: prompted < 0 ? null : prompted + 1,
  };
}

/**
 * The same after each side's own mean is taken off and lengths are 1 again: what all generated clips have in common and
 * no training clip has, a decoder's blur above all, then no longer decides. Null when there is too little to average.
 */
export function matchCentred(
  items: readonly Item[],
  features: readonly Float32Array[],
  references: readonly Reference[],
  known: readonly Float32Array[],
): Match[] | null {
  if (new Set(items.map(({ prompt }) => prompt)).size < 4 || known.length < 4) return null;
  const [made, learned] = [centred(features), centred(known)];
  return items.map((item, i) => match(item, made[i] as Float32Array, references, learned));
}

function centred(vectors: readonly Float32Array[]): Float32Array[] {
  const mean = new Float64Array(vectors[0]?.length ?? 0);
  for (const vector of vectors)
    for (let i = 0; i < mean.length; i++) mean[i] = (mean[i] as number) + (vector[i] as number) / vectors.length;
  return vectors.map((vector) => {
    const moved = vector.map((value, i) => value - (mean[i] as number));
    const length = Math.hypot(...moved) || 1;
    return moved.map((value) => value / length);
  });
}

/** Share of items whose nearest reference would be the prompted one if the nearest were drawn from a hat. */
export function chance(items: readonly Item[], references: readonly Reference[]): number {
  const shares = items.map(
    (item) => references.filter((reference) => isPrompted(item, reference)).length / Math.max(1, references.length),
  );
  return shares.reduce((sum, share) => sum + share, 0) / Math.max(1, shares.length);
}

/** Averages of every measure over the items that have it. */
export function averages(items: Readonly<Record<string, Scores>>): Scores {
  const sums = new Map<string, { sum: number; count: number }>();
  for (const scores of Object.values(items))
    for (const [name, value] of Object.entries(scores)) {
      const entry = sums.get(name) ?? { sum: 0, count: 0 };
      sums.set(name, { sum: entry.sum + value, count: entry.count + 1 });
    }
  return Object.fromEntries([...sums].map(([name, { sum, count }]) => [name, sum / count]));
}
