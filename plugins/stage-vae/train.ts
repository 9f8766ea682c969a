/**
 * The loop that trains a VAE on pixels: crops, loss, backward, clip, AdamW, EMA, in the order things happen.
 * It knows the codec only by its contract.
 */
import {
  type Device,
  type DType,
  Generator,
  noGrad,
  rand,
  scope,
  stack,
  type Tensor,
  withMatmulDtype,
} from "../../native/index.ts";
import { AdamW, clipGradNorm, Ema } from "../../native/optim/index.ts";
import { type Codec, type Perception, WaverError } from "../index.ts";
import type { CropSource } from "./crops.ts";
import { type VaeLossWeights, VaeObjective } from "./objective.ts";
import { loadState, saveState } from "./resume.ts";

export interface VaeRecipe {
  readonly steps: number;
  readonly lr: number;
  /** Steps of linear warm-up; then a cosine down to a twentieth. */
  readonly warmup: number;
  /** Kinds of batch and how often each comes, so that one VAE serves pictures, small and large clips. */
  readonly batches: readonly {
    readonly share: number;
    readonly size: number;
    readonly frames: number;
    readonly side: number;
  }[];
  readonly weights: VaeLossWeights;
  /** Step from which the perceptual term counts: it helps only once pictures are recognisable. */
  readonly perceptualFrom: number;
  readonly maxStride: number;
  /** Share of clips shown whole: what the VAE will be asked to code. */
  readonly whole: number;
  readonly gradNorm: number;
  readonly ema: number;
  /** Arithmetic of convolutions and products; weights stay float32. */
  readonly matmul: DType;
  readonly seed: number;
}

export interface VaeProgress {
  readonly step: number;
  readonly lr: number;
  readonly metrics: Readonly<Record<string, number>>;
}

/** Work that a kill may cost. */
const SAVE_EVERY_MS = 10_000;

/** Linear warm-up, then a cosine from lr to lr / 20. */
function learningRate(recipe: VaeRecipe, step: number): number {
  if (step < recipe.warmup) return (recipe.lr * (step + 1)) / recipe.warmup;
  const a = (step - recipe.warmup) / Math.max(1, recipe.steps - recipe.warmup);
  return recipe.lr * (0.05 + 0.95 * 0.5 * (1 + Math.cos(Math.PI * a)));
}

/**
 * Trains `codec` in place; its weights end as the moving average.
 * @param sources each drawn with a chance in proportion to its weight
 * @param how.resumeFile where the state is kept every few seconds, and taken up again
 * @param how.breathe called every step; may throw to stop
 */
export async function trainVae(
  codec: Codec,
  sources: readonly { readonly source: CropSource; readonly weight: number }[],
  recipe: VaeRecipe,
  how: {
    readonly device: Device;
    readonly perception?: Perception;
    readonly resumeFile?: string;
    readonly saveEveryMs?: number;
    report(progress: VaeProgress): void;
    breathe(step: number): Promise<void>;
  },
): Promise<void> {
  const objectives = {
    plain: new VaeObjective(codec, { ...recipe.weights, perceptual: 0 }),
    full: recipe.weights.perceptual > 0 ? new VaeObjective(codec, recipe.weights, how.perception) : undefined,
  };
  codec.module.to({ dtype: "float32" }).requiresGrad_(true);
  const parameters = [...codec.module.namedParameters()];
  using optimizer = new AdamW(parameters, { lr: recipe.lr, betas: [0.9, 0.99], weightDecay: 0 });
  using ema = new Ema(parameters, recipe.ema);
  using random = new Generator(recipe.seed);
  const total = sources.reduce((sum, s) => sum + s.weight, 0);
  const shares = recipe.batches.reduce((sum, b) => sum + b.share, 0);
  const choose = <T>(u: number, items: readonly T[], weight: (item: T) => number): T => {
    let left = u;
    for (const item of items) {
      left -= weight(item);
      if (left < 0) return item;
    }
    return items.at(-1) as T;
  };
  const state = { module: codec.module, optimizer, ema, random };
  let savedAt = performance.now();
  for (let step = how.resumeFile === undefined ? 0 : loadState(how.resumeFile, state); step < recipe.steps; step++) {
    await how.breathe(step);
    if (how.resumeFile !== undefined && performance.now() - savedAt >= (how.saveEveryMs ?? SAVE_EVERY_MS)) {
      saveState(how.resumeFile, step, state);
      savedAt = performance.now();
    }
    optimizer.setLr(learningRate(recipe, step));
    scope(() => {
      const u = rand([65], { generator: random }).toNumbers();
      const kind = choose((u[64] as number) * shares, recipe.batches, (b) => b.share);
      const clips = Array.from({ length: kind.size }, (_, i) =>
        choose((u[i % 64] as number) * total, sources, (s) => s.weight).source.sample(random, {
          frames: kind.frames,
          side: kind.side,
          maxStride: recipe.maxStride,
          whole: recipe.whole,
        }),
      );
      const video = stack(clips);
      const objective =
        step >= recipe.perceptualFrom && objectives.full !== undefined ? objectives.full : objectives.plain;
      const { loss, metrics } = withMatmulDtype(recipe.matmul, () =>
        objective.step(
          { ids: [], task: kind.frames === 1 ? "t2i" : "t2v", captions: [], video, extras: {} },
          { step, generator: random },
        ),
      );
      loss.backward();
      const norm = clipGradNorm(parameters, recipe.gradNorm);
      if (!Number.isFinite(norm))
        throw new WaverError("numeric_invalid", `the gradient is not finite at step ${step} of VAE training`, {
          hint: "lower lr or the weights of the loss",
        });
      optimizer.step();
      optimizer.zeroGrad();
      ema.update();
      if (step % 10 === 0)
        how.report({ step, lr: learningRate(recipe, step), metrics: { ...metrics, grad_norm: norm, side: kind.side } });
    });
  }
  codec.module.requiresGrad_(false);
  ema.copyTo();
}

/** Clips [1 3 F S S] drawn from every source in turn; the caller disposes them. */
export function sampleClips(
  sources: readonly CropSource[],
  count: number,
  how: { readonly frames: number; readonly side: number; readonly seed: number },
): Tensor[] {
  using random = new Generator(how.seed + 1);
  return Array.from({ length: count }, (_, i) =>
    scope(() =>
      (sources[i % sources.length] as CropSource)
        .sample(random, { frames: how.frames, side: how.side, maxStride: 2 })
        .unsqueeze(0),
    ),
  );
}

/** Mean PSNR in dB of what the codec makes of clips [1 3 F H W], from posterior means. */
export function evaluatePsnr(codec: Codec, clips: readonly Tensor[]): number {
  const each = clips.map((clip) => scope(() => noGrad(() => psnr(codec.decode(codec.encode(clip)), clip))));
  return each.reduce((a, b) => a + b, 0) / each.length;
}

/** Per-channel mean and standard deviation of posterior means over clips: what DiT training normalises by. */
export function latentStatistics(codec: Codec, clips: Iterable<Tensor>): { mean: number[]; std: number[] } {
  let count = 0;
  let sum: number[] = [];
  let squares: number[] = [];
  for (const video of clips) {
    scope(() => {
      const mean = noGrad(() => codec.posterior(video)).mean.to({ dtype: "float64", device: "cpu" });
      const per = mean.transpose(0, 1).flatten(1);
      count += per.size(1);
      const add = (into: number[], values: number[]): number[] => values.map((v, i) => v + (into[i] ?? 0));
      sum = add(sum, per.sum(1).toNumbers());
      squares = add(squares, per.mul(per).sum(1).toNumbers());
    });
  }
  const mean = sum.map((s) => s / count);
  return { mean, std: squares.map((s, i) => Math.sqrt(Math.max(1e-12, s / count - (mean[i] as number) ** 2))) };
}

/** Peak signal-to-noise ratio in dB of a reconstruction of video in [-1, 1]. */
export function psnr(x: Tensor, reference: Tensor): number {
  return scope(() => 10 * Math.log10(4 / Math.max(1e-12, x.sub(reference).pow(2).mean().item())));
}
