/**
 * UniPC (Zhao et al. 2023, arXiv 2302.04867), the B(h) form on data predictions, as diffusers runs it for Wan: each step first
 * corrects the point it stands on with the prediction made there, then predicts the next one.
 *
 * With m = x0 predictions, alpha = 1 - sigma, lambda = log(alpha / sigma), h = lambda_t - lambda_s:
 *   x_t = sigma_t / sigma_s * x_s - alpha_t (e^-h - 1) m_0 - alpha_t B(h) sum_k rho_k (m_k - m_0) / r_k
 */

import type { Tensor } from "../../native/index.ts";
import type { SampleRequest } from "../index.ts";
import { type Guarded, integrate } from "./integrate.ts";
import type { Schedule, SchedulerConfig } from "./schedule.ts";

export interface Solver {
  readonly order: number;
  readonly type: "bh1" | "bh2";
  /** Lowers the order towards the end: with a final sigma of 0 the last h is infinite. */
  readonly lowerOrderFinal: boolean;
  /** Steps whose result is not corrected. */
  readonly disableCorrector: readonly number[];
}

export const solverOf = (config: SchedulerConfig): Solver => ({
  order: config.solver_order,
  type: config.solver_type === "bh1" ? "bh1" : "bh2", // the reference reads DPM-Solver's names as bh2
  lowerOrderFinal: config.lower_order_final,
  disableCorrector: config.disable_corrector,
});

export function uniPC(request: SampleRequest, schedule: Schedule, solver: Solver): Promise<Tensor> {
  const { sigmas } = schedule;
  const numSteps = schedule.timesteps.length;
  const towards = request.convention.predicts === "noise-data" ? -1 : 1;
  /** Highest order at step k; the order in fact grows with the predictions at hand. */
  const highest = (k: number): number => (solver.lowerOrderFinal ? Math.min(solver.order, numSteps - k) : solver.order);

  const step = ({ step: k, x, prediction, state }: Guarded): { x: Tensor; state: Record<string, Tensor> } => {
    const m = x.add(prediction.mul(towards * (sigmas[k] as number))); // the data this prediction points at
    const past = Array.from({ length: solver.order }, (_, i) => state[`m${i}`]).filter((value) => value !== undefined); // newest first
    const corrects = state.last !== undefined && !solver.disableCorrector.includes(k - 1);
    const here = corrects
      ? update({
          sigmas,
          from: k - 1,
          order: Math.min(highest(k - 1), past.length),
          type: solver.type,
          x: state.last as Tensor,
          ms: past,
          target: m,
        })
      : x;
    const ms = [m, ...past].slice(0, solver.order);
    const next = update({ sigmas, from: k, order: Math.min(highest(k), ms.length), type: solver.type, x: here, ms });
    return { x: next, state: { last: here, ...Object.fromEntries(ms.map((value, i) => [`m${i}`, value])) } };
  };
  return integrate(request, schedule, step);
}

interface Update {
  readonly sigmas: Float32Array;
  /** The step whose point x is; the update goes to the next sigma. */
  readonly from: number;
  readonly order: number;
  readonly type: "bh1" | "bh2";
  readonly x: Tensor;
  /** Data predictions at `from` and before, newest first. */
  readonly ms: readonly Tensor[];
  /** The data prediction at the point reached: its presence makes the update the corrector (UniC). */
  readonly target?: Tensor;
}

/** From sigmas[from] to sigmas[from + 1]: the predictor (UniP), or with `target` the corrector (UniC). */
function update({ sigmas, from, order, type, x, ms, target }: Update): Tensor {
  const sigma = (i: number): number => sigmas[i] as number;
  const lambda = (i: number): number => Math.log(1 - sigma(i)) - Math.log(sigma(i));
  const [s, t] = [sigma(from), sigma(from + 1)];
  const alpha = 1 - t;
  const h = lambda(from + 1) - lambda(from);
  const phi1 = Math.expm1(-h);
  const B = type === "bh1" ? -h : phi1;
  const m0 = ms[0] as Tensor;

  const ratios = Array.from({ length: order - 1 }, (_, i) => (lambda(from - 1 - i) - lambda(from)) / h);
  const rhos = weights(h, B, ratios, target !== undefined);
  let x1 = x.mul(t / s).sub(m0.mul(alpha * phi1));
  for (const [i, r] of ratios.entries())
    x1 = x1.sub((ms[i + 1] as Tensor).sub(m0).mul((alpha * B * (rhos[i] as number)) / r));
  return target === undefined ? x1 : x1.sub(target.sub(m0).mul(alpha * B * (rhos.at(-1) as number)));
}

/** rho of R rho = b (UniPC, eq. 8): Vandermonde rows in the ratios r_k, with 1 for the corrector's own point. */
function weights(h: number, B: number, ratios: readonly number[], corrector: boolean): number[] {
  const nodes = corrector ? [...ratios, 1] : [...ratios];
  // the reference fixes the smallest systems at 1/2, which is what they tend to for small h
  if (nodes.length === 1) return [0.5];
  const b: number[] = [];
  let factorial = 1;
  let phi = Math.expm1(-h) / -h - 1;
  for (let i = 1; i <= nodes.length; i++) {
    b.push((phi * factorial) / B);
    factorial *= i + 1;
    phi = phi / -h - 1 / factorial;
  }
  return solve(
    nodes.map((_, row) => nodes.map((node) => node ** row)),
    b,
  );
}

/** Gaussian elimination with partial pivoting; the systems are 2x2 or 3x3. */
function solve(matrix: readonly (readonly number[])[], right: readonly number[]): number[] {
  const n = right.length;
  const rows = matrix.map((row, i) => [...row, right[i] as number]);
  const at = (i: number, j: number): number => (rows[i] as number[])[j] as number;
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let j = i + 1; j < n; j++) if (Math.abs(at(j, i)) > Math.abs(at(pivot, i))) pivot = j;
    [rows[i], rows[pivot]] = [rows[pivot] as number[], rows[i] as number[]];
    for (let j = i + 1; j < n; j++) {
      const factor = at(j, i) / at(i, i);
      for (let k = i; k <= n; k++) (rows[j] as number[])[k] = at(j, k) - factor * at(i, k);
    }
  }
  const solution = new Array<number>(n).fill(0);
  for (let i = n - 1; i >= 0; i--) {
    let sum = at(i, n);
    for (let j = i + 1; j < n; j++) sum -= at(i, j) * (solution[j] as number);
    solution[i] = sum / at(i, i);
  }
  return solution;
}
