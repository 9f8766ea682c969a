/**
 * Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416) and Waver's form of it for video (Waver 4.5).
 *
 * The guidance cond - uncond is clipped in norm and split along and across cond; the part along it saturates colours and is
 * weighted by eta. Norm and projection run over `axes`: the whole sample in the paper, [C H W] of each latent frame in Waver.
 * Predictions are [B C T h w].
 */
import { type Tensor, tensor } from "../../native/index.ts";

export interface Apg {
  readonly scale: number;
  /** Weight of the part along the conditional prediction; 1 leaves plain guidance. */
  readonly eta: number;
  /** Largest norm of the guidance; 0 leaves it as it is. */
  readonly threshold: number;
  /** Axes that one norm and one projection cover. */
  readonly axes: readonly number[];
  /** `paper`: cond + (scale - 1) * update. `diffusers`: uncond + scale * update. Equal only for eta 1 and no clip. */
  readonly form: "paper" | "diffusers";
}

export interface Guided {
  readonly prediction: Tensor;
  /** Norm of the guidance before it was clipped, and the factor that clipped it. */
  readonly norm: Tensor;
  readonly clip: Tensor;
}

export function apg(
  cond: Tensor,
  uncond: Tensor,
  guidance: Tensor,
  { scale, eta, threshold, axes, form }: Apg,
): Guided {
  const norm = guidance.norm(2, axes, true);
  const clip = threshold > 0 ? norm.reciprocal().mul(threshold).clamp(null, 1) : norm.mul(0).add(1);
  // the reference projects in float64: the two parts nearly cancel
  const update = guidance.mul(clip).to("float64");
  const direction = cond.to("float64");
  const unit = direction.div(direction.norm(2, axes, true).clamp(1e-12));
  const along = update.mul(unit).sum(axes, true).mul(unit);
  const across = update.sub(along);
  const kept = across.add(along.mul(eta)).to(cond.dtype);
  const prediction = form === "paper" ? cond.add(kept.mul(scale - 1)) : uncond.add(kept.mul(scale));
  return { prediction, norm, clip };
}

/** A running sum of guidance over the steps (negative momentum in the paper). Plain numbers: no tensor outlives a step. */
export class Momentum {
  #sum: Float32Array | undefined;

  constructor(readonly momentum: number) {}

  /** guidance + momentum * (what it was before). */
  update(guidance: Tensor): Tensor {
    const before = this.#sum;
    const sum =
      before === undefined
        ? guidance
        : guidance.add(tensor(before, { device: guidance.device }).reshape(guidance.shape).mul(this.momentum));
    // of a plan there are no values, only how many
    this.#sum = sum.device === "meta" ? new Float32Array(sum.numel) : sum.toFloat32Array();
    return sum;
  }

  reset(): void {
    this.#sum = undefined;
  }

  save(): Record<string, Tensor> {
    return this.#sum === undefined ? {} : { sum: tensor(this.#sum) };
  }
  restore({ sum }: Readonly<Record<string, Tensor>>): void {
    this.#sum = sum?.toFloat32Array();
  }
}
