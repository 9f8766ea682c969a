/**
 * DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095), multistep on data predictions, as diffusers runs it for flow matching.
 *
 * With m = x0 predictions, alpha = 1 - sigma, lambda = log(alpha / sigma), h = lambda_t - lambda_s, phi = e^-h - 1:
 *   x_t = sigma_t / sigma_s * x_s - alpha_t phi D0 + alpha_t c1 D1 - alpha_t c2 D2
 * where D0 = m and D1, D2 are its first and second differences in lambda.
 */

import type { Tensor } from "../../native/index.ts";
import { type SampleRequest, WaverError } from "../index.ts";
import { type Guarded, integrate } from "./integrate.ts";
import type { Schedule, SchedulerConfig } from "./schedule.ts";

export interface DpmSolver {
  readonly order: number;
  /** How the second order weighs its difference. */
  readonly type: "midpoint" | "heun";
  /** Lowers the order towards the end of short schedules. The last step is of order 1 in any case: its h is infinite. */
  readonly lowerOrderFinal: boolean;
}

/** Schedules shorter than this lower the order of their last steps (the reference's number). */
const SHORT = 15;

export function dpmSolverOf(config: SchedulerConfig): DpmSolver {
  if (config.algorithm_type !== "dpmsolver++")
    throw new WaverError(
      "invalid_input",
      `the scheduler sets algorithm_type ${config.algorithm_type}, which is not implemented`,
      {
        hint: "set algorithm_type to dpmsolver++ in scheduler_config.json",
      },
    );
  return {
    order: config.solver_order,
    type: config.solver_type === "heun" ? "heun" : "midpoint", // the reference reads UniPC's names as midpoint
    lowerOrderFinal: config.lower_order_final,
  };
}

export function dpmSolver(request: SampleRequest, schedule: Schedule, solver: DpmSolver): Promise<Tensor> {
  const { sigmas } = schedule;
  const numSteps = schedule.timesteps.length;
  const towards = request.convention.predicts === "noise-data" ? -1 : 1;
  /** Highest order at step k; the order in fact grows with the predictions at hand. */
  const highest = (k: number): number => {
    if (k === numSteps - 1) return 1;
    return solver.lowerOrderFinal && numSteps < SHORT && k === numSteps - 2 ? Math.min(solver.order, 2) : solver.order;
  };

  const step = ({ step: k, x, prediction, state }: Guarded): { x: Tensor; state: Record<string, Tensor> } => {
    const m = x.add(prediction.mul(towards * (sigmas[k] as number))); // the data this prediction points at
    const past = Array.from({ length: solver.order - 1 }, (_, i) => state[`m${i}`]).filter(
      (value) => value !== undefined,
    ); // newest first
    const ms = [m, ...past];
    const next = update(sigmas, k, x, ms.slice(0, highest(k)), solver.type);
    return { x: next, state: Object.fromEntries(ms.slice(0, solver.order - 1).map((value, i) => [`m${i}`, value])) };
  };
  return integrate(request, schedule, step);
}

/** From sigmas[k] to sigmas[k + 1], of the order of the data predictions given (newest first). */
function update(sigmas: Float32Array, k: number, x: Tensor, ms: readonly Tensor[], type: DpmSolver["type"]): Tensor {
  const sigma = (i: number): number => sigmas[i] as number;
  const lambda = (i: number): number => Math.log(1 - sigma(i)) - Math.log(sigma(i));
  const alpha = 1 - sigma(k + 1);
  const h = lambda(k + 1) - lambda(k);
  const phi = Math.expm1(-h);
  const [m0, m1, m2] = ms as [Tensor, Tensor?, Tensor?];
  const first = x.mul(sigma(k + 1) / sigma(k)).sub(m0.mul(alpha * phi));
  if (m1 === undefined) return first;

  const r0 = (lambda(k) - lambda(k - 1)) / h;
  const d0 = m0.sub(m1).div(r0);
  const heun = alpha * (phi / h + 1);
  if (m2 === undefined) return first.add(d0.mul(type === "heun" ? heun : -0.5 * alpha * phi));

  const r1 = (lambda(k - 1) - lambda(k - 2)) / h;
  const bend = d0.sub(m1.sub(m2).div(r1)).div(r0 + r1);
  const D1 = d0.add(bend.mul(r0));
  return first.add(D1.mul(heun)).sub(bend.mul(alpha * ((phi + h) / h ** 2 - 0.5)));
}
