/** What a training run is asked to do: the input of `waver train`, and the arithmetic that follows from it. */
import { z } from "zod";

const Size = z.strictObject({ width: z.int().positive(), height: z.int().positive() });

export const TrainInput = z.strictObject({
  set: z.string().meta({
    description: "folder or digest of a training set: Parquet files with id, path, start, end and caption",
    format: "path",
  }),
  model: z.string().nullable().default(null).meta({
    description: "name, folder or digest of the parent pipeline; null starts from random weights",
    format: "model",
  }),
  output: z.string().meta({ description: "folder for the trained pipeline; must not exist", format: "path" }),
  component: z
    .enum(["transformer", "refiner"])
    .default("transformer")
    .meta({ description: "which network of the pipeline is trained" }),

  // A format of its own: `out.proj` looks like a file to who types it.
  fresh: z
    .array(z.string().meta({ format: "weight" }))
    .default([])
    .meta({
      description: "weights that start fresh in place of the parent's, by the beginning of their names",
    }),

  video: z
    .strictObject({ sizes: z.array(Size).min(1), frames: z.int().positive(), fps: z.number().positive() })
    .nullable()
    .default(null)
    .meta({ description: "clips as the network sees them; each goes to the size nearest to its aspect" }),
  image: z
    .strictObject({ sizes: z.array(Size).min(1) })
    .nullable()
    .default(null)
    .meta({ description: "single frames, for text-to-image batches" }),
  imageShare: z
    .number()
    .min(0)
    .max(1)
    .default(0.25)
    .meta({ description: "share of batches that are images when both are given" }),

  steps: z.int().positive(),
  batch: z.int().positive(),
  seed: z.int().nonnegative().default(0),
  lr: z.number().positive(),
  warmup: z.int().nonnegative().default(0).meta({ description: "steps of linear warm-up" }),
  schedule: z.enum(["constant", "cosine", "linear"]).default("constant"),
  finalLr: z.number().min(0).max(1).default(0).meta({ description: "where cosine and linear end, as a share of lr" }),
  betas: z.tuple([z.number(), z.number()]).default([0.9, 0.99]),
  weightDecay: z.number().nonnegative().default(0.01),
  clip: z.number().positive().default(1).meta({ description: "largest norm of all gradients together" }),
  ema: z
    .number()
    .min(0)
    .max(1)
    .default(0.999)
    .meta({ description: "decay of the averaged weights, which are the result; warms up as (1 + step) / (10 + step)" }),
  matmul: z
    .enum(["bfloat16", "float32"])
    .default("bfloat16")
    .meta({ description: "dtype of matrix products; weights and optimiser stay float32" }),
  trainText: z
    .boolean()
    .default(false)
    .meta({ description: "train the text encoder too (nano models; the papers freeze theirs)" }),

  shift: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .meta({ description: "timestep shift of the sampler in the trained pipeline; the parent's when absent, else 1" }),
  negativePrompt: z.string().optional().meta({
    description:
      "what the model keeps away from when a generation says nothing: the undesirable tags of its captions. Nothing for a network trained from the start; else the starting model's",
  }),
  sampleSteps: z
    .int()
    .positive()
    .default(30)
    .meta({ description: "sampling steps that the trained pipeline suggests" }),

  checkpointEvery: z.int().positive().default(200).meta({ description: "steps between resume points" }),
  checkpointSeconds: z
    .number()
    .positive()
    .default(15)
    .meta({ description: "seconds between resume points, whichever comes first" }),
  keepSnapshots: z
    .int()
    .nonnegative()
    .default(0)
    .meta({ description: "averaged weights kept along the way, the last ones, for merging" }),
  snapshotEvery: z.int().positive().default(100),
});
export type TrainInput = z.output<typeof TrainInput>;

/** Learning rate of a step, as a share of the recipe's. */
export function learningRate(
  recipe: Pick<TrainInput, "steps" | "warmup" | "schedule" | "finalLr">,
  step: number,
): number {
  if (step < recipe.warmup) return (step + 1) / recipe.warmup;
  const progress = (step - recipe.warmup) / Math.max(1, recipe.steps - recipe.warmup);
  const share = { constant: 1, linear: 1 - progress, cosine: (1 + Math.cos(Math.PI * progress)) / 2 }[recipe.schedule];
  return recipe.finalLr + (1 - recipe.finalLr) * share;
}

/** Warm-up of the average: without it the first random weights would stay in it for long; the rule is that of the first EMA helpers (num_updates). */
export const emaDecay = (decay: number, step: number): number => Math.min(decay, (1 + step) / (10 + step));
