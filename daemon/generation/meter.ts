/** What the stages of a job took, beside what was planned for them. */
import { z } from "zod";
import type { Plan, StagePlan } from "./figures.ts";

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

/** One row an operator, and one for what lies between them. */
export const OperatorCost = z.object({
  operator: z.string(),
  calls: z.int(),
  ms: z.number(),
  /** Of the stage's computing. */
  percent: z.number(),
  gflop: z.number(),
  gflopPerSecond: z.number(),
});
export type OperatorCost = z.output<typeof OperatorCost>;

/** By stage. */
export const OperatorCosts = z.record(z.string(), z.array(OperatorCost));
export type OperatorCosts = z.output<typeof OperatorCosts>;

/** The engine's measure of operators. */
export interface Operators {
  during<T>(work: () => T): T;
  readonly seconds: number;
  readonly rows: readonly {
    readonly op: string;
    readonly calls: number;
    readonly seconds: number;
    readonly flops: number;
  }[];
}

interface Measured {
  seconds: number;
  peakBytes: number | undefined;
}

export class Meter {
  readonly #memory: Memory | null;
  readonly #stages = new Map<Stage, Measured>();
  readonly #profile: (() => Operators) | undefined;
  readonly #operators = new Map<Stage, Operators>();

  /** `profile` makes what measures the operators of a stage. */
  constructor(memory: Memory | null, profile?: () => Operators) {
    this.#memory = memory;
    this.#profile = profile;
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
    const result = this.computing(stage, work);
    measuring.end();
    return result;
  }

  /** Runs computing (synchronous) of a stage that has been started. */
  computing<T>(stage: Stage, work: () => T): T {
    if (this.#profile === undefined) return work();
    const operators = this.#operators.get(stage) ?? this.#profile();
    this.#operators.set(stage, operators);
    return operators.during(work);
  }

  /** Which operators took the time, stage by stage, the most expensive first. */
  operators(): OperatorCosts {
    return Object.fromEntries(
      Array.from(this.#operators, ([stage, { seconds: whole, rows }]) => {
        const between = { op: "between operators", calls: 0, flops: 0, seconds: whole };
        for (const row of rows) between.seconds -= row.seconds;
        return [
          stage,
          [...rows, between]
            .sort((a, b) => b.seconds - a.seconds)
            .map(({ op, calls, seconds, flops }) => ({
              operator: op,
              calls,
              ms: 1000 * seconds,
              percent: (100 * seconds) / whole,
              gflop: flops / 1e9,
              gflopPerSecond: flops / seconds / 1e9,
            })),
        ];
      }),
    );
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
