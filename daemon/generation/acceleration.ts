/** What an accelerator spares a job: its passes, timed apart by whether something was left out, and what that cost. */
import { z } from "zod";
import type { Accelerator, AcceleratorMemory, Denoiser, PassOf } from "../../plugins/index.ts";

const count = z.int().nonnegative();
const seconds = z.number().nonnegative();
const Timed = z.object({ passes: count, seconds });

/** Of one batch. */
const Spared = z.object({
  blocks: count,
  skipped: count,
  /** Passes in which every block ran, and those in which some did not. */
  whole: Timed,
  cut: Timed,
});
type Spared = z.output<typeof Spared>;

/** A batch of latents on disk, and how they came about. */
export const Denoised = z.object({
  /** In the job's folder. */
  file: z.string(),
  /** Of all steps; absent where an earlier attempt did some of them. */
  seconds: seconds.optional(),
  spared: Spared.optional(),
  /** Whether the price is to be measured as well. */
  isMeasured: z.boolean().optional(),
});
export type Denoised = z.output<typeof Denoised>;

/** How far a sample is from what it would have been. */
export const Drift = z.object({
  sample: count,
  /** Of the latents, relative to them: |x - plain| / |plain|. */
  latents: z.number(),
  /** Decibels between the frames; null: they are the same. */
  psnr: z.number().nullable(),
  /** Mean difference of a pixel from one frame to the next, of 255. */
  motion: z.number().optional(),
  plainMotion: z.number().optional(),
});
export type Drift = z.output<typeof Drift>;

/** What a result says of it. */
export const Savings = z.object({
  by: z.string(),
  blocks: count,
  skipped: count,
  passes: count,
  /** Passes in which some block did not run. */
  cutPasses: count,
  /** Means of a pass; absent where there was none. */
  wholePassMs: z.number().optional(),
  cutPassMs: z.number().optional(),
  /** Time of all passes, had each taken as long as a whole one, over the time that they took. */
  estimatedSpeedup: z.number().optional(),
  estimatedSavedSeconds: z.number().optional(),
  /** Time of all steps without, over that with; absent where a step was done in an earlier attempt. */
  measuredSpeedup: z.number().optional(),
  /** Part of the motion that is left, over all samples. */
  motionKept: z.number().optional(),
  drift: z.array(Drift).optional(),
  note: z.string().optional(),
});
export type Savings = z.output<typeof Savings>;

type Prediction = ReturnType<Denoiser["forward"]>;
type Predict = (branch: PassOf["branch"]) => Prediction;
interface Facts {
  readonly own: unknown;
  readonly whole: z.output<typeof Timed>;
  readonly cut: z.output<typeof Timed>;
}

/** An accelerator over the steps of one batch. */
export class Acceleration implements Disposable {
  readonly #accelerator: Accelerator;
  readonly #whole: z.output<typeof Timed>;
  readonly #cut: z.output<typeof Timed>;

  private constructor(accelerator: Accelerator, { whole, cut }: Pick<Facts, "whole" | "cut">) {
    this.#accelerator = accelerator;
    this.#whole = { ...whole };
    this.#cut = { ...cut };
  }

  /** `memory` is that of the attempt that goes on. */
  static async open(
    make: (memory: AcceleratorMemory | undefined) => Promise<Accelerator>,
    memory: AcceleratorMemory | undefined,
  ): Promise<Acceleration> {
    const none = { passes: 0, seconds: 0 };
    if (memory === undefined) return new Acceleration(await make(undefined), { whole: none, cut: none });
    const { own, ...timed } = memory.facts as Facts;
    return new Acceleration(await make({ tensors: memory.tensors, facts: own }), timed);
  }

  /** The predictions of one step, each as much as it must be. */
  around(predict: Predict, at: Omit<PassOf, "branch" | "call">): Predict {
    const calls = { positive: 0, negative: 0 };
    return (branch) => {
      const before = this.#accelerator.tally.skipped;
      const startedAt = performance.now();
      const of = { network: at.network, step: at.step, numSteps: at.numSteps, branch, call: calls[branch]++ };
      const prediction = this.#accelerator.during(of, () => predict(branch));
      if (prediction.device !== "cpu") prediction.select(0, 0).flatten().select(0, 0).item(); // waits: a GPU runs behind
      const timed = this.#accelerator.tally.skipped > before ? this.#cut : this.#whole;
      timed.passes += 1;
      timed.seconds += (performance.now() - startedAt) / 1000;
      return prediction;
    };
  }

  get spared(): Spared {
    const { blocks, skipped } = this.#accelerator.tally;
    return { blocks, skipped, whole: { ...this.#whole }, cut: { ...this.#cut } };
  }

  /** For progress. */
  get detail(): { readonly skipped: string } {
    const { blocks, skipped } = this.#accelerator.tally;
    return { skipped: `${skipped} of ${blocks} blocks` };
  }

  get isMeasured(): boolean {
    return this.#accelerator.isMeasured;
  }

  memory(): AcceleratorMemory {
    const { tensors, facts } = this.#accelerator.memory();
    return { tensors, facts: { own: facts, whole: this.#whole, cut: this.#cut } satisfies Facts };
  }

  [Symbol.dispose](): void {
    this.#accelerator[Symbol.dispose]();
  }
}

/** A batch with the accelerator, and without it where that was measured. */
export interface Pair {
  readonly denoised: Denoised;
  readonly plain?: Denoised | undefined;
}

export function savingsOf(by: string, pairs: readonly Pair[], drift: readonly Drift[]): Savings {
  const spared = pairs.flatMap(({ denoised }) => denoised.spared ?? []);
  const sum = (value: (each: Spared) => number): number => spared.reduce((all, each) => all + value(each), 0);
  const [whole, cut] = (["whole", "cut"] as const).map((kind) => ({
    passes: sum((each) => each[kind].passes),
    seconds: sum((each) => each[kind].seconds),
  })) as [z.output<typeof Timed>, z.output<typeof Timed>];
  const passes = whole.passes + cut.passes;
  const taken = whole.seconds + cut.seconds;
  const had = whole.passes === 0 ? undefined : (passes / whole.passes) * whole.seconds;
  const both = pairs.map(({ denoised, plain }) => [denoised.seconds, plain?.seconds] as const);
  const isTimed = both.every(([a, b]) => a !== undefined && b !== undefined);
  const total = (which: 0 | 1): number => both.reduce((all, pair) => all + (pair[which] ?? 0), 0);
  const motion = (key: "motion" | "plainMotion"): number => drift.reduce((all, each) => all + (each[key] ?? 0), 0);
  return {
    by,
    blocks: sum((each) => each.blocks),
    skipped: sum((each) => each.skipped),
    passes,
    cutPasses: cut.passes,
    ...(whole.passes === 0 ? {} : { wholePassMs: (1000 * whole.seconds) / whole.passes }),
    ...(cut.passes === 0 ? {} : { cutPassMs: (1000 * cut.seconds) / cut.passes }),
    ...(had === undefined ? {} : { estimatedSpeedup: had / taken, estimatedSavedSeconds: had - taken }),
    ...(isTimed ? { measuredSpeedup: total(1) / total(0) } : {}),
    ...(motion("plainMotion") > 0 ? { motionKept: motion("motion") / motion("plainMotion") } : {}),
    ...(drift.length > 0
      ? { drift: [...drift] }
      : { note: "drift and lost motion were not measured: cache.measure does" }),
  };
}
