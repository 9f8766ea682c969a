/**
 * Splits many vectors into shards of likely neighbours by spherical k-means, as SemDeDup does, so that pairs are
 * compared within a shard only: n^2 / k products in place of n^2. Near copies fall into one shard except at a border.
 */
import { dot, unit, type Vector } from "./vector.ts";

/** Up to here all pairs are compared: 4,000 x 4,000 / 2 products of 1,280 features take about ten seconds. */
const BRUTE = 4000;
const ROUNDS = 8;
/** Vectors that the centres are fitted to. */
const SAMPLE = 20_000;

/** Unit vectors -> lists of their indices, each in rising order. */
export function shards(vectors: readonly Vector[]): number[][] {
  if (vectors.length === 0) return [];
  if (vectors.length <= BRUTE) return [vectors.map((_, index) => index)];
  const count = Math.ceil(vectors.length / (BRUTE / 2));
  const stride = Math.max(1, Math.floor(vectors.length / SAMPLE));
  const sample = vectors.filter((_, index) => index % stride === 0);
  // Evenly spaced starts: the rows are sorted by quality and digest, which has nothing to do with looks.
  let centres = Array.from({ length: count }, (_, i) =>
    Float32Array.from(sample[Math.floor((i * sample.length) / count)] as Vector),
  );
  for (let round = 0; round < ROUNDS; round++) centres = moved(centres, sample);
  const out: number[][] = centres.map(() => []);
  for (const [index, vector] of vectors.entries()) (out[nearest(vector, centres)] as number[]).push(index);
  return out.filter((shard) => shard.length > 0);
}

function moved(centres: readonly Vector[], sample: readonly Vector[]): Vector[] {
  const sums = centres.map((centre) => new Float32Array(centre.length));
  for (const vector of sample) {
    const sum = sums[nearest(vector, centres)] as Vector;
    for (let i = 0; i < vector.length; i++) sum[i]! += vector[i] as number;
  }
  return sums.map((sum, index) => (dot(sum, sum) === 0 ? (centres[index] as Vector) : unit(sum)));
}

function nearest(vector: Vector, centres: readonly Vector[]): number {
  let best = 0;
  let cosine = Number.NEGATIVE_INFINITY;
  centres.forEach((centre, index) => {
    const value = dot(vector, centre);
    if (value > cosine) [best, cosine] = [index, value];
  });
  return best;
}
