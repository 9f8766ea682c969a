/**
 * How weights of several checkpoints become one, for one tensor at a time. All float32; `ws` are the tensors of the
 * checkpoints in their order. In task arithmetic, TIES and DARE the first is the model that the others were tuned from.
 */
import { bernoulli_, Generator, stack, type Tensor, where, zerosLike } from "../../native/index.ts";

/** sum_i c_i w_i */
export function linear(ws: readonly Tensor[], coefficients: readonly number[]): Tensor {
  const [first, ...rest] = ws as [Tensor, ...Tensor[]];
  return rest.reduce(
    (sum, w, i) => sum.add_(w.mul(coefficients[i + 1] as number)),
    first.mul(coefficients[0] as number),
  );
}

/** Nearer to parallel than this, the arc is a line (Shoemake 1985; mergekit's number). */
const PARALLEL = 0.9995;

/** The point at `t` on the arc from a to b, taken as two long vectors. */
export function slerp(a: Tensor, b: Tensor, t: number): Tensor {
  const cosine = Math.min(1, Math.max(-1, cosineOf(a, b)));
  if (Math.abs(cosine) > PARALLEL || Number.isNaN(cosine)) return linear([a, b], [1 - t, t]);
  const angle = Math.acos(cosine);
  return linear([a, b], [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)]);
}

function cosineOf(a: Tensor, b: Tensor): number {
  const [x, y] = [a.to("float64"), b.to("float64")];
  return (x.mul(y).sum().item() as number) / ((x.norm().item() as number) * (y.norm().item() as number));
}

/** What each tuned model changed. */
const deltas = ([base, ...tuned]: readonly Tensor[]): Tensor[] => tuned.map((w) => w.sub(base as Tensor));

/** base + sum_i c_i (w_i - base) (Ilharco et al. 2022, arXiv 2212.04089) */
export function taskArithmetic(ws: readonly Tensor[], coefficients: readonly number[]): Tensor {
  return (ws[0] as Tensor).add(linear(deltas(ws), coefficients));
}

/**
 * TIES (Yadav et al. 2023, arXiv 2306.01708): of each change the largest `density` is kept, a sign is elected by the sum of
 * all, and the mean goes over those that agree with it.
 */
export function ties(
  ws: readonly Tensor[],
  { density, weights, scale }: { density: number; weights: readonly number[]; scale: number },
): Tensor {
  const weighted = stack(deltas(ws).map((delta, i) => largest(delta, density).mul(weights[i] as number)));
  const sum = weighted.sum(0);
  const elected = where(sum.ge(0), zerosLike(sum).add(1), zerosLike(sum).sub(1));
  const agrees = weighted.sign().eq(elected).float();
  const shares = stack(agrees.unbind(0).map((each, i) => each.mul(weights[i] as number))).sum(0);
  const mean = weighted
    .mul(agrees)
    .sum(0)
    .div(where(shares.eq(0), zerosLike(shares).add(1), shares));
  return (ws[0] as Tensor).add(mean.mul(scale));
}

/** The int(density * n) entries of largest magnitude, at least one; the others zero. */
function largest(delta: Tensor, density: number): Tensor {
  const flat = delta.flatten();
  const kept = Math.max(1, Math.trunc(density * flat.numel));
  const [, index] = flat.abs().topk(kept);
  return flat.mul(zerosLike(flat).scatter(0, index, 1)).view(delta.shape);
}

/** DARE (Yu et al. 2023, arXiv 2311.03099): a share of each change is dropped at random, the rest enlarged to make up for it. */
export function dare(
  ws: readonly Tensor[],
  { dropRate, scale, keep }: { dropRate: number; scale: number; keep: (model: number, like: Tensor) => Tensor },
): Tensor {
  const kept = deltas(ws).map((delta, i) => delta.mul(keep(i, delta)).div(1 - dropRate));
  return (ws[0] as Tensor).add(
    linear(
      kept,
      kept.map(() => scale / kept.length),
    ),
  );
}

/** A mask of DARE's, the same for the same seed, tensor and model, in whatever order they are asked for. */
export function randomMask(seed: number, key: string, model: number, dropRate: number): (like: Tensor) => Tensor {
  return (like) => {
    const digest = new Bun.CryptoHasher("sha256").update(`${seed} ${model} ${key}`).digest();
    using generator = new Generator(digest.readUIntBE(0, 6));
    return bernoulli_(zerosLike(like), 1 - dropRate, generator);
  };
}
