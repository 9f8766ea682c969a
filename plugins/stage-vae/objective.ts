/**
 * The VAE's training objective (Waver 7.2; Wan 4.1): L1 on pixels, a perceptual term on the activations of a frozen
 * image network, and a KL term that keeps latents near a unit Gaussian without hiding detail. The adversarial term of
 * the papers comes with the VAE issue; this is the recipe without it.
 *
 * Axes: B batch, C channels, F frames, H W rows and columns, T h w latent ones.
 */
import { type Generator, l1Loss, noGrad, randn, type Tensor } from "../../native/index.ts";
import { type Batch, type Codec, type Objective, type Perception, type StepResult, WaverError } from "../index.ts";

export interface VaeLossWeights {
  /** Mean absolute error, the unit the others are measured in. */
  readonly l1: number;
  readonly perceptual: number;
  /** Of the KL divergence averaged over all latent elements (Waver Eq. 4). */
  readonly kl: number;
}

/** posterior mean, logvar [B C T h w] -> KL(q || N(0, 1)), mean over all elements. */
export function klDivergence(mean: Tensor, logvar: Tensor): Tensor {
  return mean.mul(mean).add(logvar.exp()).sub(1).sub(logvar).mul(0.5).mean();
}

/** Frames of a clip that the perceptual term looks at: all would cost more than the VAE itself. */
const PERCEIVED_FRAMES = 4;

/**
 * Distance of two batches of pictures in the network's maps: every map is normalised over channels, squared
 * differences are averaged over positions, maps count alike (as LPIPS without its learned weights).
 * @param x pictures [B 3 H W] in [-1, 1]
 */
export function perceptualDistance(network: Perception, x: Tensor, target: Tensor): Tensor {
  const unit = (map: Tensor): Tensor => map.div(map.mul(map).sum(1, true).add(1e-6).sqrt());
  const wanted = noGrad(() => network.features(target).map(unit));
  const terms = network.features(x).map((map, i) => {
    const d = unit(map).sub(wanted[i] as Tensor);
    return d.mul(d).sum(1).mean();
  });
  return terms.reduce((a, b) => a.add(b)).div(terms.length);
}

export class VaeObjective implements Objective {
  readonly modules: Objective["modules"];
  readonly groups: Objective["groups"];
  readonly phases = [{ optimizer: "main" }] as const;
  readonly #codec: Codec;
  readonly #weights: VaeLossWeights;
  readonly #perception: Perception | undefined;

  constructor(codec: Codec, weights: VaeLossWeights, perception?: Perception) {
    if (codec.reconstruct === undefined)
      throw new WaverError("needs_unmet", "this codec cannot be trained: it offers no reconstruct()");
    if (weights.perceptual > 0 && perception === undefined)
      throw new WaverError("needs_unmet", "a perceptual weight is set but no perception network is given", {
        hint: "set perceptual to 0 or pick a perception network",
      });
    this.#codec = codec;
    this.#weights = weights;
    this.#perception = perception;
    this.modules = { vae: codec.module };
    this.groups = [
      {
        name: "vae",
        optimizer: "main",
        parameters: [...codec.module.namedParameters()].map(([, parameter]) => parameter),
      },
    ];
  }

  step(batch: Batch, at: { readonly step: number; readonly generator: Generator }): StepResult {
    const video = batch.video;
    if (video === undefined)
      throw new WaverError("invalid_input", "the vae objective trains on pixels: the batch has no video");
    const { mean, logvar } = this.#codec.posterior(video);
    const noise = randn(mean.shape, { generator: at.generator }).to(mean.device);
    const decoded = (this.#codec.reconstruct as (z: Tensor) => Tensor)(mean.add(logvar.mul(0.5).exp().mul(noise)));
    const l1 = l1Loss(decoded, video);
    const kl = klDivergence(mean, logvar);
    let loss = l1.mul(this.#weights.l1).add(kl.mul(this.#weights.kl));
    const metrics: Record<string, number> = {};
    if (this.#weights.perceptual > 0 && this.#perception !== undefined) {
      const F = video.size(2);
      const first = at.step % Math.max(1, Math.ceil(F / PERCEIVED_FRAMES));
      const every = Math.max(1, Math.ceil(F / PERCEIVED_FRAMES));
      const look = (x: Tensor): Tensor => x.slice(2, first, F, every).permute([0, 2, 1, 3, 4]).flatten(0, 1);
      const perceptual = perceptualDistance(this.#perception, look(decoded), look(video));
      loss = loss.add(perceptual.mul(this.#weights.perceptual));
      if (at.step % 10 === 0) metrics.perceptual = perceptual.item();
    }
    // reading a number waits for the device: only now and then
    if (at.step % 10 === 0)
      Object.assign(metrics, {
        l1: l1.item(),
        kl: kl.item(),
        mse: noGrad(() => decoded.sub(video).pow(2).mean().item()),
      });
    return { loss, metrics };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The codec belongs to whoever handed it in.
  }
}
