/**
 * Flow matching (Waver 4.1, 4.3; the formulas of rectified flow after SD3).
 *
 * x_t = (1 - t) x0 + t n; the network learns the velocity n - x0, or x0 - n where its convention says so. One batch may
 * hold images, videos, and videos whose first frame is known: the tasks of Waver differ only in the condition.
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
import type { FlowOptions } from "./options.ts";
import { shiftTime, timestep } from "./timesteps.ts";

type Known = { readonly latents: Tensor; readonly mask: Tensor };

export class FlowObjective implements Objective {
  readonly modules: Objective["modules"];
  readonly groups: readonly ParameterGroup[];
  readonly phases = [{ optimizer: "adamw" }];
  readonly #denoiser: Denoiser;
  readonly #text: TextEncoder;
  readonly #text2: TextEncoder | undefined;
  readonly #codec: Codec | undefined;
  readonly #options: FlowOptions;
  readonly #trainText: boolean;
  /** Conditions with nothing known, by shape of the latents. */
  readonly #nothingKnown = new Map<string, Known>();

  constructor(request: ObjectiveRequest, options: FlowOptions) {
    const { denoiser, text, text2, codec, trainText } = request;
    if (denoiser === undefined || text === undefined)
      throw new WaverError("needs_unmet", "flow matching needs a network and a text encoder");
    this.#denoiser = denoiser;
    this.#text = text;
    this.#text2 = text2;
    this.#codec = codec;
    this.#options = options;
    this.#trainText = trainText;
    this.modules = { denoiser: denoiser.module, ...(trainText ? { text: text.module } : {}) };
    this.groups = Object.entries(this.modules).map(([name, module]) => ({
      name,
      optimizer: "adamw",
      parameters: module.parameters(),
    }));
  }

  /** What a clip needs in every step, once: its latents and, for I2V, the condition with a known first frame. */
  prepare(video: Tensor): Record<string, Tensor> {
    const codec = this.#codec;
    if (codec === undefined) throw new WaverError("needs_unmet", "flow matching needs a codec to prepare clips");
    const latents = codec.encode(video);
    const frames = video.size(2);
    if (frames === 1 || this.#options.firstFrame === 0) return { latents };
    if (this.#denoiser.condition === undefined)
      throw new WaverError("needs_unmet", "this network takes no known frames: set firstFrame to 0");
    const known = this.#denoiser.condition(video, firstOf(frames), codec);
    return { latents, knownLatents: known.latents, knownMask: known.mask };
  }

  step(batch: Batch, { generator }: { readonly step: number; readonly generator: Generator }): StepResult {
    if (batch.latents === undefined) throw new WaverError("invalid_input", "flow matching needs latents in its batch");
    // Latent frame 0 stands alone, so the first latent frame of a clip is the latent of its first frame.
    const x0 = batch.task === "t2i" ? batch.latents.narrow(2, 0, 1) : batch.latents;
    const t = this.#times(x0.size(0), batch.task, generator);
    const dropped = uniform(x0.size(0), generator).map((u) => u < this.#options.textDropout);
    const known = this.#known(batch, x0, uniform(x0.size(0), generator));
    const noise = randn(x0.shape, { generator }).to({ device: x0.device });
    const prediction = this.#denoiser.forward({
      latents: x0.lerp(noise, t.reshape([-1, 1, 1, 1, 1])),
      t,
      ...this.#encode(batch.captions.map((caption, i) => (dropped[i] ? "" : caption))),
      ...(known === undefined ? {} : { known }),
    });
    const target = this.#denoiser.convention.predicts === "noise-data" ? noise.sub(x0) : x0.sub(noise);
    return { loss: mseLoss(prediction.float(), target), metrics: {} };
  }

  /** Flow times [B]: the task's distribution, then the shift. Strata keep a small batch from missing a part of [0, 1]. */
  #times(B: number, task: Batch["task"], generator: Generator): Tensor {
    const distribution = this.#options.timesteps[task === "t2i" ? "image" : "video"];
    const times = uniform(B, generator).map((u, i) =>
      shiftTime(timestep(this.#options.stratified ? (i + u) / B : u, distribution), this.#options.shift),
    );
    return tensor(Float32Array.from(times));
  }

  #encode(captions: string[]): { text: Conditioning; text2?: Conditioning } {
    const padTo = this.#denoiser.textLength;
    // A small share of the work, and norms of some encoders want one dtype throughout: no bfloat16 products here.
    const encode = (encoder: TextEncoder): Conditioning =>
      withMatmulDtype(null, () => encoder.encode(captions, padTo === undefined ? {} : { padTo }));
    const frozen = (encoder: TextEncoder): Conditioning => noGrad(() => encode(encoder));
    return {
      text: this.#trainText ? encode(this.#text) : frozen(this.#text),
      ...(this.#text2 === undefined ? {} : { text2: frozen(this.#text2) }),
    };
  }

  /** The condition of every sample: its first frame with the recipe's probability (20 % in Waver 4.3), else nothing. */
  #known(batch: Batch, x0: Tensor, chance: readonly number[]): Known | undefined {
    if (this.#denoiser.condition === undefined || this.#codec === undefined) return undefined;
    const nothing = this.#conditionless(x0, this.#codec);
    const { knownLatents, knownMask } = batch.extras;
    const expanded = {
      latents: nothing.latents.expand(x0.shape),
      mask: nothing.mask.expand([x0.size(0), -1, -1, -1, -1]),
    };
    if (batch.task === "t2i" || knownLatents === undefined || knownMask === undefined) return expanded;
    const given = tensor(chance.map((u) => batch.task === "i2v" || u < this.#options.firstFrame)).reshape([
      -1, 1, 1, 1, 1,
    ]);
    return { latents: knownLatents.where(given, expanded.latents), mask: knownMask.where(given, expanded.mask) };
  }

  #conditionless(x0: Tensor, codec: Codec): Known {
    const [T, h, w] = x0.shape.slice(2) as [number, number, number];
    const key = [T, h, w].join("x");
    let known = this.#nothingKnown.get(key);
    if (known === undefined) {
      const [st, sh, sw] = codec.latent.stride;
      const frames = 1 + (T - 1) * st;
      const isKnown = Array<boolean>(frames).fill(false);
      // In the codec's own dtype, like the clips' conditions, whatever products the step is in.
      known = withMatmulDtype(null, () =>
        scope(() => noGrad(() => this.#denoiser.condition?.(zeros([1, 3, frames, h * sh, w * sw]), isKnown, codec))),
      ) as Known;
      keep(known.latents);
      keep(known.mask);
      this.#nothingKnown.set(key, known);
    }
    return known;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { latents, mask } of this.#nothingKnown.values()) {
      latents.dispose();
      mask.dispose();
    }
    this.#nothingKnown.clear();
  }
}

const firstOf = (frames: number): boolean[] => Array.from({ length: frames }, (_, i) => i === 0);

/** n numbers in (0, 1), in float64. */
function uniform(n: number, generator: Generator): number[] {
  return scope(() => rand([n], { generator, dtype: "float64" }).toNumbers());
}
