/**
 * Weights, optimisers and averages of one run: one step of it, and its state on disk.
 *
 * A step is reproducible from the state alone: its random numbers come from a generator seeded by run and step, its
 * batch from a loader whose cursor is the step. So a resume point holds tensors and a step, and no generator state.
 */
import { appendFileSync, closeSync, existsSync, fsyncSync, openSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import {
  AdamW,
  clipGradNorm,
  Ema,
  Generator,
  noGrad,
  openSafetensors,
  saveSafetensors,
  scope,
  type Tensor,
  withMatmulDtype,
} from "../../../native/index.ts";
import { type Batch, type Objective, type ParameterGroup, WaverError } from "../../../plugins/index.ts";
import { seedOf } from "./loader.ts";
import { emaDecay, learningRate, type TrainInput } from "./recipe.ts";
import type { ResumePoints } from "./resume.ts";

/** Updates that are skipped in a row before the run is given up. */
const MOST_SKIPPED = 8;

export interface StepReport {
  readonly step: number;
  readonly task: string;
  readonly loss: number;
  readonly lr: number;
  readonly gradNorm: number;
  /** The update was left out because a number was not finite. */
  readonly skipped?: true;
  readonly [metric: string]: unknown;
}

export class Trainer implements Disposable {
  readonly #objective: Objective;
  readonly #recipe: TrainInput;
  readonly #optimizers: ReadonlyMap<string, { readonly adamw: AdamW; readonly groups: readonly ParameterGroup[] }>;
  readonly #named: readonly (readonly [string, Tensor])[];
  readonly #ema: Ema;
  readonly #log: string;
  #step = 0;
  #skipped = 0;

  constructor(objective: Objective, recipe: TrainInput, log: string) {
    this.#objective = objective;
    this.#recipe = recipe;
    this.#log = log;
    for (const module of Object.values(objective.modules)) module.to({ dtype: "float32" }).requiresGrad_().train();
    using generator = new Generator(seedOf(`${recipe.seed}/fresh`));
    for (const module of Object.values(objective.modules))
      for (const [name, weight] of module.namedWeights())
        if (recipe.fresh.some((start) => name.startsWith(start))) noGrad(() => weight.init(weight, generator));
    this.#named = Object.entries(objective.modules).flatMap(([name, module]) => [...module.namedWeights(name)]);
    this.#ema = new Ema(this.#named, recipe.ema);
    const names = new Map(this.#named.map(([name, parameter]) => [parameter, name]));
    const byOptimizer = Map.groupBy(objective.groups, (group) => group.optimizer);
    this.#optimizers = new Map(
      [...byOptimizer].map(([name, groups]) => [name, { groups, adamw: adamw(groups, names, recipe) }]),
    );
  }

  /** Steps done. */
  get step(): number {
    return this.#step;
  }

  /** One training step on a batch made inside it. */
  next(assemble: () => Batch): StepReport {
    const { clip } = this.#recipe;
    const share = learningRate(this.#recipe, this.#step);
    const report = scope(() => {
      using generator = new Generator(seedOf(`${this.#recipe.seed}/step/${this.#step}`));
      const batch = assemble();
      let result: StepReport = {
        step: this.#step,
        task: batch.task,
        loss: 0,
        lr: this.#recipe.lr * share,
        gradNorm: 0,
      };
      for (const [phase, { optimizer }] of this.#objective.phases.entries()) {
        const { adamw, groups } = this.#optimizers.get(optimizer)!;
        const { loss, metrics } = withMatmulDtype(
          this.#recipe.matmul === "float32" ? null : { dtype: this.#recipe.matmul, result: "compute" },
          () => this.#objective.step(batch, { step: this.#step, phase, generator }),
        );
        loss.backward();
        const gradNorm = clipGradNorm(
          groups.flatMap((group) => group.parameters),
          clip,
        );
        result = { ...result, ...metrics, loss: result.loss + loss.item(), gradNorm };
        if (Number.isFinite(result.loss) && Number.isFinite(gradNorm)) {
          groups.forEach((group, i) => {
            adamw.groups[i]!.lr = this.#recipe.lr * share * (group.lrScale ?? 1);
          });
          adamw.step();
        } else result = { ...result, skipped: true };
        for (const module of Object.values(this.#objective.modules)) module.zeroGrad();
      }
      return result;
    });
    this.#guard(report);
    this.#ema.update(emaDecay(this.#recipe.ema, this.#step));
    this.#step++;
    // The loss log belongs to the state: it holds no times, and a resumed run continues it byte for byte.
    appendFileSync(this.#log, `${JSON.stringify(report)}\n`);
    return report;
  }

  /** One bad batch costs one update; a run that has gone astray stops before a bad state is kept as good. */
  #guard({ skipped, step, loss }: StepReport): void {
    this.#skipped = skipped === true ? this.#skipped + 1 : 0;
    if (this.#skipped >= MOST_SKIPPED)
      throw new WaverError(
        "numeric_invalid",
        `the loss was not finite in ${MOST_SKIPPED} steps in a row, up to step ${step} (${loss})`,
        {
          hint: "lower the learning rate, or train with matmul float32; the last resume point is from before",
        },
      );
  }

  /** Whether the state is fit to be kept. */
  get isSound(): boolean {
    return this.#skipped === 0;
  }

  async save(points: ResumePoints): Promise<void> {
    if (existsSync(this.#log)) syncFile(this.#log);
    await points.publish(
      { step: this.#step, lossLog: existsSync(this.#log) ? statSync(this.#log).size : 0 },
      (folder) => {
        saveSafetensors(join(folder, "weights.safetensors"), new Map(this.#named));
        saveSafetensors(join(folder, "average.safetensors"), this.#ema.stateDict());
        for (const [name, { adamw }] of this.#optimizers) {
          const state = adamw.stateDict();
          if (Object.keys(state).length > 0) saveSafetensors(join(folder, `optimizer-${name}.safetensors`), state);
        }
      },
    );
  }

  load(folder: string, at: { readonly step: number; readonly lossLog: number }): void {
    const read = <T>(name: string, use: (file: ReturnType<typeof openSafetensors>) => T): T => {
      using file = openSafetensors(join(folder, name));
      return use(file);
    };
    scope(() =>
      noGrad(() => {
        read("weights.safetensors", (file) => {
          for (const [name, weight] of this.#named) weight.copy_(file.get(name));
        });
        read("average.safetensors", (file) => this.#ema.loadStateDict(file));
        for (const [name, { adamw }] of this.#optimizers) {
          const part = `optimizer-${name}.safetensors`;
          if (existsSync(join(folder, part))) read(part, (file) => adamw.loadStateDict(file));
        }
      }),
    );
    this.#step = at.step;
    if (existsSync(this.#log)) truncateSync(this.#log, at.lossLog);
  }

  /** Runs `fn` with the averaged weights in the modules. */
  withAverage<T>(fn: () => Promise<T>): Promise<T> {
    return this.#ema.swapped(fn);
  }

  [Symbol.dispose](): void {
    for (const { adamw } of this.#optimizers.values()) adamw.dispose();
    this.#ema.dispose();
    for (const module of Object.values(this.#objective.modules)) {
      module.zeroGrad();
      module.requiresGrad_(false);
    }
  }
}

function adamw(groups: readonly ParameterGroup[], names: ReadonlyMap<Tensor, string>, recipe: TrainInput): AdamW {
  return new AdamW(
    groups.map((group) => ({
      params: group.parameters.map((parameter) => [names.get(parameter) ?? group.name, parameter] as const),
      ...(group.weightDecay === undefined ? {} : { weightDecay: group.weightDecay }),
    })),
    { lr: recipe.lr, betas: recipe.betas, weightDecay: recipe.weightDecay },
  );
}

function syncFile(path: string): void {
  const file = openSync(path, "r");
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
