/**
 * Four methods that the contract must be able to hold, written as plugins and never run: REPA alignment, GAN training
 * of a VAE, an OCR scorer, and guidance limited to an interval. If one stops type-checking, the contract has lost it.
 */
import {
  cosineSimilarity,
  type Generator,
  grad,
  l1Loss,
  type Module,
  mseLoss,
  type Parameter,
  type Tensor,
} from "../../native/index.ts";
import {
  type Batch,
  type Codec,
  type Denoiser,
  definePlugin,
  type Objective,
  type ObjectiveRequest,
  type Perception,
  provide,
  type StepResult,
  WaverError,
  z,
} from "../../plugins/index.ts";

/** Networks that are beside the point here. */
interface Projector extends Module {
  forward(x: Tensor): Tensor;
}
declare function mlp(widths: readonly number[]): Projector;
declare function patchDiscriminator(channels: number): Projector;
declare function noised(batch: Batch, generator: Generator): { latents: Tensor; t: Tensor; target: Tensor };

// ---------------------------------------------------------------------------------------- REPA (Waver 3.2, eq. 4)

/** An auxiliary MLP trained with the DiT on one of its taps, against features precomputed for each clip. */
function alignment(
  { denoiser, text }: ObjectiveRequest,
  options: { weight: number; tap: string; dim: number },
): Objective {
  if (denoiser === undefined || text === undefined)
    throw new WaverError("needs_unmet", "alignment trains a denoiser with its text encoder");
  const dit: Denoiser = denoiser;
  if (!dit.taps.includes(options.tap))
    throw new WaverError("invalid_input", `the family has no tap ${options.tap}`, {
      hint: `taps: ${dit.taps.join(", ")}`,
    });
  const projector = mlp([256, 2048, options.dim]);
  return {
    modules: { denoiser: dit.module, projector },
    groups: [
      { name: "denoiser", optimizer: "adamw", parameters: dit.module.parameters() },
      { name: "projector", optimizer: "adamw", parameters: projector.parameters(), lrScale: 10 },
    ],
    phases: [{ optimizer: "adamw" }],
    step(batch, { generator }): StepResult {
      const { latents, t, target } = noised(batch, generator);
      const taps = new Map<string, Tensor>();
      const prediction = dit.forward({ latents, t, text: text.encode(batch.captions) }, taps);
      const flow = mseLoss(prediction, target);
      const features = batch.extras["repa"];
      const tapped = taps.get(options.tap);
      if (features === undefined || tapped === undefined)
        throw new WaverError("invalid_input", "the set has no features named repa");
      const align = cosineSimilarity(projector.forward(tapped), features, -1).mean().neg();
      return { loss: flow.add(align.mul(options.weight)), metrics: { flow: flow.item(), align: align.item() } };
    },
    [Symbol.asyncDispose]: async () => projector[Symbol.dispose](),
  };
}

// ------------------------------------------------------------------------------- VAE: L1 + perceptual + GAN + KL

/** Two optimisers in two phases of one step; the discriminator's weight follows the gradients of the last layer. */
function adversarial(codec: Codec, perception: Perception, options: { kl: number; startStep: number }): Objective {
  const discriminator = patchDiscriminator(3);
  const last: Parameter | undefined = codec.module.parameters().at(-1);
  if (codec.reconstruct === undefined || last === undefined)
    throw new WaverError("needs_unmet", "this codec cannot be trained");
  const reconstruct = codec.reconstruct.bind(codec);
  return {
    modules: { codec: codec.module, discriminator },
    groups: [
      { name: "codec", optimizer: "codec", parameters: codec.module.parameters() },
      { name: "discriminator", optimizer: "discriminator", parameters: discriminator.parameters(), weightDecay: 0 },
    ],
    phases: [{ optimizer: "codec" }, { optimizer: "discriminator" }],
    step({ video }, { step, phase, generator }): StepResult {
      if (video === undefined) throw new WaverError("invalid_input", "the set has no pixels");
      const { mean, logvar } = codec.posterior(video);
      const made = reconstruct(sampled(mean, logvar, generator));
      if (phase === 1) {
        const loss = discriminator.forward(made.detach()).sub(discriminator.forward(video)).mean();
        return { loss, metrics: { discriminator: loss.item() } };
      }
      const pixels = l1Loss(made, video);
      const seen = perceptual(perception, made, video);
      const kl = mean.pow(2).add(logvar.exp()).sub(logvar).mean();
      const fooled = discriminator.forward(made).mean().neg();
      const balance = step < options.startStep ? 0 : gradientRatio(pixels.add(seen), fooled, last);
      return {
        loss: pixels.add(seen).add(kl.mul(options.kl)).add(fooled.mul(balance)),
        metrics: { pixels: pixels.item(), balance },
      };
    },
    [Symbol.asyncDispose]: async () => discriminator[Symbol.dispose](),
  };
}

declare function sampled(mean: Tensor, logvar: Tensor, generator: Generator): Tensor;

function perceptual(perception: Perception, made: Tensor, video: Tensor): Tensor {
  const frame = (x: Tensor): Tensor => x.select(2, 0);
  const [a, b] = [perception.features(frame(made)), perception.features(frame(video))];
  return a.map((map, i) => mseLoss(map, b[i] as Tensor)).reduce((sum, each) => sum.add(each));
}

function gradientRatio(a: Tensor, b: Tensor, at: Parameter): number {
  const norm = (loss: Tensor): number => (grad([loss], [at], { retainGraph: true })[0] as Tensor).norm().item();
  return norm(a) / Math.max(norm(b), 1e-4);
}

// ------------------------------------------------------------------------------------------------------ the plugin

/** A text detector that lives in a worker: its session is loaded once and disposed by the host. */
interface TextDetector extends AsyncDisposable {
  boxes(
    pixels: Uint8Array,
    width: number,
    height: number,
    signal: AbortSignal,
  ): Promise<readonly { width: number; height: number }[]>;
}
declare function openDetector(model: string): Promise<TextDetector>;

export default definePlugin({
  name: "contract-fit",
  version: "0.0.0",
  hookApi: "0.1",
  config: z.strictObject({ models: z.string() }),
  provides: [
    provide("objective", {
      id: "align",
      summary: "flow matching with representation alignment",
      source: "Waver 3.2, eq. 4; Yu et al. 2024 (REPA)",
      runs: "device",
      options: z.object({
        weight: z.number().default(0.5),
        tap: z.string().default("dual.last"),
        dim: z.int().default(1536),
      }),
      traits: { tasks: ["t2i", "t2v"], fields: ["latents", "repa"] },
      run: async (request, { options }) => alignment(request, options),
    }),
    provide("objective", {
      id: "vae-gan",
      summary: "L1, perceptual, adversarial and KL",
      runs: "device",
      options: z.object({ kl: z.number().default(1e-6), startStep: z.int().default(5000), perception: z.string() }),
      traits: { tasks: [], fields: ["video"] },
      needs: [{ hook: "perceive" }],
      async run({ codec }, { options, ctx }) {
        if (codec === undefined) throw new WaverError("needs_unmet", "this objective trains a codec");
        const perceive = await ctx.use("perceive", options.perception);
        return adversarial(codec, await perceive({}), options);
      },
    }),
    provide("score", {
      id: "ocr",
      summary: "share of the picture that is text",
      runs: "worker",
      options: z.object({ model: z.string(), atLeast: z.number().default(0.3) }),
      traits: {
        view: { width: 736, height: 736, fit: "stretch", rate: 1, format: "rgb24", batch: 4 },
        measures: ["textArea"],
      },
      bytes: () => 50e6,
      load: async ({ model }) => openDetector(model),
      async run({ frames }, { state, ctx }) {
        let [area, count] = [0, 0];
        for await (const { data, width, height, count: batch } of frames) {
          for (let i = 0; i < batch; i++) {
            await ctx.breathe();
            const boxes = await state.boxes(
              data.subarray(i * width * height * 3, (i + 1) * width * height * 3),
              width,
              height,
              ctx.signal,
            );
            area += boxes.reduce((sum, box) => sum + box.width * box.height, 0) / (width * height);
          }
          count += batch;
        }
        return { textArea: count === 0 ? 0 : area / count };
      },
    }),
    provide("guide", {
      id: "interval",
      summary: "classifier-free guidance inside an interval of noise levels",
      source: "Kynkäänniemi et al. 2024",
      runs: "device",
      options: z.object({ scale: z.number().default(5), from: z.number().default(0.2), to: z.number().default(0.9) }),
      traits: {},
      run:
        async (_, { options: { scale, from, to } }) =>
        ({ predict, t }) => {
          const positive = predict("positive");
          if (t < from || t > to) return positive;
          const negative = predict("negative");
          return negative.add(positive.sub(negative).mul(scale));
        },
    }),
  ],
});
