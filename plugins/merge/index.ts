/** One checkpoint from several of one network. */
import { definePlugin, provide, WaverError, z } from "../index.ts";

const shardBytes = z
  .int()
  .positive()
  .default(2 ** 31)
  .describe("largest file that is written, and the memory that the sum takes");
const perModel = z.array(z.number()).min(1).optional();

/** One number for each of `count` checkpoints, or the same for all. */
function numbers(given: readonly number[] | undefined, count: number, fallback: number, what: string): number[] {
  if (given === undefined) return new Array<number>(count).fill(fallback);
  if (given.length === 1) return new Array<number>(count).fill(given[0] as number);
  if (given.length === count) return [...given];
  throw new WaverError("invalid_input", `${what} has ${given.length} numbers for ${count} checkpoints`);
}

/** The first checkpoint is the model that the others were tuned from. */
function tuned(count: number, id: string): number {
  if (count > 1) return count - 1;
  throw new WaverError("invalid_input", `${id} needs the original model and at least one tuned from it`, {
    hint: "name the original first: checkpoints BASE TUNED1 TUNED2",
  });
}

export default definePlugin({
  name: "merge",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("merge", {
      id: "average",
      summary: "the mean of all weights, summed in float32; plain, or weighted",
      source: "Waver 4.5, Model averaging (7 to 10 checkpoints); Li et al. 2025",
      runs: "device",
      options: z.strictObject({
        weights: perModel.describe("of the checkpoints, in their order; they are made to add up to 1"),
        shardBytes,
      }),
      traits: {},
      async run(request, { options, ctx }) {
        const { combine } = await import("./combine.ts");
        const { linear } = await import("./formulas.ts");
        const weights = numbers(options.weights, request.checkpoints.length, 1, "weights");
        if (weights.length < 2) throw new WaverError("invalid_input", "an average needs two checkpoints or more");
        const sum = weights.reduce((total, weight) => total + weight, 0);
        if (!(Math.abs(sum) > 0)) throw new WaverError("invalid_input", "the weights add up to 0: there is no mean");
        return combine(
          request,
          (tensors) =>
            linear(
              tensors,
              weights.map((weight) => weight / sum),
            ),
          options,
          ctx,
        );
      },
    }),
    provide("merge", {
      id: "slerp",
      summary: "a point on the arc between two checkpoints, tensor by tensor",
      source: "Shoemake 1985; as mergekit does it, each tensor one vector",
      runs: "device",
      options: z.strictObject({
        t: z.number().min(0).max(1).default(0.5).describe("0 is the first checkpoint, 1 the second"),
        shardBytes,
      }),
      traits: {},
      async run(request, { options, ctx }) {
        if (request.checkpoints.length !== 2)
          throw new WaverError(
            "invalid_input",
            `slerp goes between two checkpoints, not ${request.checkpoints.length}`,
            {
              hint: "method average takes any number",
            },
          );
        const { combine } = await import("./combine.ts");
        const { slerp } = await import("./formulas.ts");
        return combine(request, (tensors) => slerp(tensors[0]!, tensors[1]!, options.t), options, ctx);
      },
    }),
    provide("merge", {
      id: "task-arithmetic",
      summary: "the first checkpoint plus what each of the others changed about it",
      source: "Ilharco et al. 2022, arXiv 2212.04089",
      runs: "device",
      options: z.strictObject({
        scale: perModel.describe("strength of each change, in the order of the checkpoints; 1 when absent"),
        shardBytes,
      }),
      traits: {},
      async run(request, { options, ctx }) {
        const { combine } = await import("./combine.ts");
        const { taskArithmetic } = await import("./formulas.ts");
        const scales = numbers(options.scale, tuned(request.checkpoints.length, "task-arithmetic"), 1, "scale");
        return combine(request, (tensors) => taskArithmetic(tensors, scales), options, ctx);
      },
    }),
    provide("merge", {
      id: "ties",
      summary: "the first checkpoint plus the largest changes of the others, where they agree in sign",
      source: "Yadav et al. 2023, arXiv 2306.01708",
      runs: "device",
      options: z.strictObject({
        density: z.number().gt(0).max(1).default(0.2).describe("share of each change that is kept, the largest first"),
        weights: perModel.describe("of the changes, in the order of the checkpoints; 1 when absent"),
        scale: z.number().default(1).describe("strength of the merged change"),
        shardBytes,
      }),
      traits: {},
      async run(request, { options, ctx }) {
        const { combine } = await import("./combine.ts");
        const { ties } = await import("./formulas.ts");
        const weights = numbers(options.weights, tuned(request.checkpoints.length, "ties"), 1, "weights");
        return combine(request, (tensors) => ties(tensors, { ...options, weights }), options, ctx);
      },
    }),
    provide("merge", {
      id: "dare",
      summary:
        "the first checkpoint plus the mean of the others' changes, each thinned at random and enlarged to make up",
      source: "Yu et al. 2023, arXiv 2311.03099",
      runs: "device",
      options: z.strictObject({
        dropRate: z.number().min(0).lt(1).default(0.9).describe("share of each change that is dropped"),
        scale: z.number().default(1).describe("strength of the merged change"),
        seed: z.int().nonnegative().default(0).describe("of what is dropped"),
        shardBytes,
      }),
      traits: {},
      async run(request, { options, ctx }) {
        tuned(request.checkpoints.length, "dare");
        const { combine } = await import("./combine.ts");
        const { dare, randomMask } = await import("./formulas.ts");
        const { seed, dropRate } = options;
        return combine(
          request,
          (tensors, key) =>
            dare(tensors, { ...options, keep: (model, like) => randomMask(seed, key, model, dropRate)(like) }),
          options,
          ctx,
        );
      },
    }),
    provide("merge", {
      id: "ema",
      summary: "exponential average of a training's checkpoints, given in their order",
      source: "diffusers' EMAModel; with sigmaRel the power function of Karras et al. 2024, arXiv 2312.02696",
      runs: "device",
      options: z.strictObject({
        decay: z
          .number()
          .min(0)
          .max(1)
          .default(0.5)
          .describe("weight of what came before; approached over the first steps"),
        warmup: z
          .strictObject({
            invGamma: z.number().positive().default(1),
            power: z
              .number()
              .positive()
              .default(2 / 3),
          })
          .optional()
          .describe("approach decay as 1 - (1 + step / invGamma)^-power"),
        sigmaRel: z
          .number()
          .positive()
          .optional()
          .describe("width of a power-function average relative to the training, in place of decay"),
        shardBytes,
      }),
      traits: {},
      async run(request, { options, ctx }) {
        const { combine } = await import("./combine.ts");
        const { linear } = await import("./formulas.ts");
        const { coefficients, decayAt, gammaOf, powerDecayAt } = await import("./profiles.ts");
        const gamma = options.sigmaRel === undefined ? undefined : gammaOf(options.sigmaRel);
        const decays = request.checkpoints.map((_, i) =>
          gamma === undefined ? decayAt(i + 1, options) : powerDecayAt(i + 1, gamma),
        );
        return combine(request, (tensors) => linear(tensors, coefficients(decays)), options, ctx);
      },
    }),
    provide("merge", {
      id: "ema-posthoc",
      summary: "an average of another width, from snapshots of power-function averages that a training kept",
      source: "Karras et al. 2024, arXiv 2312.02696, 3.2",
      runs: "device",
      options: z.strictObject({
        steps: z.array(z.number().positive()).min(1).describe("step at which each checkpoint was taken"),
        sigmaRel: z.array(z.number().positive()).min(1).describe("width of each checkpoint's average, or one for all"),
        target: z.number().positive().describe("width that is wanted"),
        targetStep: z.number().positive().optional().describe("step that is wanted; the last when absent"),
        shardBytes,
      }),
      traits: {},
      async run(request, { options, ctx }) {
        const { combine } = await import("./combine.ts");
        const { linear } = await import("./formulas.ts");
        const { gammaOf, postHoc } = await import("./profiles.ts");
        const count = request.checkpoints.length;
        const steps = numbers(options.steps, count, 1, "steps");
        const gammas = numbers(options.sigmaRel, count, 1, "sigmaRel").map(gammaOf);
        const weights = postHoc(
          steps.map((t, i) => ({ t, gamma: gammas[i] as number })),
          { t: options.targetStep ?? Math.max(...steps), gamma: gammaOf(options.target) },
        );
        return combine(request, (tensors) => linear(tensors, weights), options, ctx);
      },
    }),
    provide("merge", {
      id: "fuse",
      summary: "one checkpoint with LoRAs made part of its weights",
      source: "Hu et al. 2021, arXiv 2106.09685, eq. 3",
      runs: "device",
      options: z.strictObject({
        lora: z
          .array(z.strictObject({ path: z.string(), weight: z.number().default(1) }))
          .min(1)
          .describe("files and their weights"),
        shardBytes,
      }),
      traits: {},
      async run(request, { options, ctx }) {
        const { fuse } = await import("./fuse.ts");
        return fuse(request, options, ctx);
      },
    }),
  ],
});
