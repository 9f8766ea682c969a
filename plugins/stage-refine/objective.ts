/**
 * The refiner's objective (Waver 2.2): from the degraded latent x_n to the clean x0 along a straight line.
 *
 * x_n = (1 - w_d) x + w_d n, x_input = w x_n + (1 - w) x0, target x0 - x_n, w ~ U[0, 1] and then the shift of Table 2.
 * x is the latent of the pixel-degraded clip, made once a clip; noise and weights are new in every step.
 *
 * Axes: B batch, C channels, T latent frames, h w latent rows and columns, F H W pixels.
 */
import {
  type Generator,
  keep,
  mseLoss,
  noGrad,
  rand,
  randn,
  scope,
  type Tensor,
  tensor,
  withMatmulDtype,
  zeros,
} from "../../native/index.ts";
import {
  type Batch,
  type Codec,
  type Conditioning,
  type Denoiser,
  type Objective,
  type ObjectiveRequest,
  type ParameterGroup,
  type StepResult,
  type TextEncoder,
  WaverError,
} from "../index.ts";
import { degradeLatents, degradePixels, halveChroma, refinerInput, scaledNoise } from "./degrade.ts";
import type { RefineOptions } from "./options.ts";

type Known = { readonly latents: Tensor; readonly mask: Tensor };

export class RefineObjective implements Objective {
  readonly modules: Objective["modules"];
  readonly groups: readonly ParameterGroup[];
  readonly phases = [{ optimizer: "adamw" }];
  readonly #denoiser: Denoiser;
  readonly #text: TextEncoder;
  readonly #text2: TextEncoder | undefined;
  readonly #codec: Codec;
  readonly #options: RefineOptions;
  /** "I all black and Mask 0", by shape of the latents. */
  readonly #nothingKnown = new Map<string, Known>();

  constructor({ denoiser, text, text2, codec, trainText }: ObjectiveRequest, options: RefineOptions) {
    if (denoiser === undefined || text === undefined || codec === undefined)
      throw new WaverError("needs_unmet", "the refiner's objective needs a network, a text encoder and a codec");
    if (denoiser.convention.predicts !== "data-noise")
      throw new WaverError("needs_unmet", "this network does not point from degraded to clean", {
        hint: "pick a family with a refiner's configuration (window attention)",
      });
    if (trainText)
      throw new WaverError(
        "invalid_input",
        "a refiner shares the text encoder of its generator: set trainText to false",
      );
    this.#denoiser = denoiser;
    this.#text = text;
    this.#text2 = text2;
    this.#codec = codec;
    this.#options = options;
    this.modules = { denoiser: denoiser.module };
    this.groups = [{ name: "denoiser", optimizer: "adamw", parameters: denoiser.module.parameters() }];
  }

  /** Clean and pixel-degraded latents. video [B 3 F H W] */
  prepare(video: Tensor): Record<string, Tensor> {
    const { factor, filter, chroma } = this.#options;
    const frames = video.transpose(1, 2);
    const { up } = degradePixels(frames, factor, filter, { chroma });
    const latents = (pixels: Tensor): Tensor => this.#codec.encode(pixels.transpose(1, 2).clamp(-1, 1));
    return { latents: latents(chroma ? halveChroma(frames) : frames), degraded: latents(up) };
  }

  step(batch: Batch, { generator }: { readonly step: number; readonly generator: Generator }): StepResult {
    const { latents: x0, extras } = batch;
    const x = extras["degraded"];
    if (x0 === undefined || x === undefined)
      throw new WaverError("invalid_input", "the refiner's objective needs latents and degraded latents in its batch");
    const [B, , , h, w] = x0.shape as [number, number, number, number, number];
    const perSample = (numbers: number[]): Tensor => tensor(Float32Array.from(numbers)).reshape([B, 1, 1, 1, 1]);
    const [low, high] = this.#options.wd.map((each) => (this.#options.scaleWd ? scaledNoise(each, h, w) : each)) as [
      number,
      number,
    ];
    const wd = uniform(B, generator).map((u) => low + (high - low) * u);
    const { shift } = this.#options;
    const times = uniform(B, generator)
      .map((u, i) => (i + u) / B)
      .map((u) => (shift * u) / (1 + (shift - 1) * u));
    const captions = uniform(B, generator).map((u, i) => (u < this.#options.textDropout ? "" : batch.captions[i]!));
    const xn = degradeLatents(x, randn(x.shape, { generator }), perSample(wd));
    const prediction = this.#denoiser.forward({
      latents: refinerInput(x0, xn, perSample(times)),
      t: tensor(Float32Array.from(times)),
      ...this.#encode(captions),
      known: this.#conditionless(x0),
    });
    return { loss: mseLoss(prediction.float(), x0.sub(xn)), metrics: {} };
  }

  #encode(captions: string[]): { text: Conditioning; text2?: Conditioning } {
    return noGrad(() =>
      withMatmulDtype(null, () => ({
        text: this.#text.encode(captions),
        ...(this.#text2 === undefined ? {} : { text2: this.#text2.encode(captions) }),
      })),
    );
  }

  #conditionless(x0: Tensor): Known {
    const [T, h, w] = x0.shape.slice(2) as [number, number, number];
    const key = [T, h, w].join("x");
    let known = this.#nothingKnown.get(key);
    if (known === undefined) {
      const [st, sh, sw] = this.#codec.latent.stride;
      const frames = 1 + (T - 1) * st;
      const isKnown = Array<boolean>(frames).fill(false);
      // In the codec's own dtype, like the clips themselves, whatever products the step is in.
      known = withMatmulDtype(null, () =>
        scope(() =>
          noGrad(() => this.#denoiser.condition?.(zeros([1, 3, frames, h * sh, w * sw]), isKnown, this.#codec)),
        ),
      ) as Known;
      keep(known.latents);
      keep(known.mask);
      this.#nothingKnown.set(key, known);
    }
    return { latents: known.latents.expand(x0.shape), mask: known.mask.expand([x0.size(0), -1, -1, -1, -1]) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { latents, mask } of this.#nothingKnown.values()) {
      latents.dispose();
      mask.dispose();
    }
    this.#nothingKnown.clear();
  }
}

/** n numbers in (0, 1). */
function uniform(n: number, generator: Generator): number[] {
  return scope(() => rand([n], { generator, dtype: "float64" }).toNumbers());
}
