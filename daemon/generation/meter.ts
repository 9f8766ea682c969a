/** What the stages of a job took, beside what was planned for them. */
import { z } from "zod";
import type { Plan, StagePlan } from "./plan.ts";

type Stage = StagePlan["stage"];

/** One row a stage. Figures that were not predicted, or not measured in this attempt, are absent. */
export const StageCost = z.object({
  stage: z.string(),
  flops: z.number().optional(),
  predictedSeconds: z.number().optional(),
  seconds: z.number().optional(),
  /** Beside weights. */
  predictedPeakBytes: z.number().optional(),
  peakBytes: z.number().optional(),
});
export type StageCost = z.output<typeof StageCost>;

/** The memory counters of the engine; null where the device's own cannot be reset. */
export interface Memory {
  allocated(): number;
  peak(): number;
  reset(): void;
}

interface Measured {
  seconds: number;
  peakBytes: number | undefined;
}

export class Meter {
  readonly #memory: Memory | null;
  readonly #stages = new Map<Stage, Measured>();

  constructor(memory: Memory | null) {
    this.#memory = memory;
  }

  /** Counts what is done until `end` towards a stage. Jobs side by side in one process share the counters: then a peak is that of all. */
  start(stage: Stage): { end(): void } {
    const before = this.#memory?.allocated();
    this.#memory?.reset();
    const startedAt = performance.now();
    return {
      end: () => {
        const seconds = (performance.now() - startedAt) / 1000;
        const peak = before === undefined ? undefined : Math.max(0, (this.#memory as Memory).peak() - before);
        const earlier = this.#stages.get(stage);
        this.#stages.set(stage, {
          seconds: seconds + (earlier?.seconds ?? 0),
          peakBytes: peak === undefined ? undefined : Math.max(peak, earlier?.peakBytes ?? 0),
        });
      },
    };
  }

  during<T>(stage: Stage, work: () => T): T {
    const measuring = this.start(stage);
    const result = work();
    measuring.end();
    return result;
  }

  /** Plan and measurement side by side, in the order of the plan. */
  beside(plan: Plan | null): StageCost[] {
    const stages = new Set([...(plan?.stages.map(({ stage }) => stage) ?? []), ...this.#stages.keys()]);
    return [...stages].map((stage) => {
      const planned = plan?.stages.filter((each) => each.stage === stage) ?? [];
      const measured = this.#stages.get(stage);
      return {
        stage,
        ...(planned.length === 0
          ? {}
          : {
              flops: planned.reduce((sum, each) => sum + each.flops, 0),
              predictedSeconds: planned.reduce((sum, each) => sum + each.seconds, 0),
              predictedPeakBytes: Math.max(...planned.map((each) => each.peakBytes)),
            }),
        ...(measured === undefined ? {} : { seconds: measured.seconds }),
        ...(measured?.peakBytes === undefined ? {} : { peakBytes: measured.peakBytes }),
      };
    });
  }
}
