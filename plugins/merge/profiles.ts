/**
 * Averages over a training, as weights of its checkpoints: whatever the decay of an exponential average is at each step, the
 * average is a sum of what it saw, and its coefficients are plain numbers. Float64 throughout.
 */
import { op, scope, tensor } from "../../native/index.ts";
import { WaverError } from "../index.ts";

export interface Decay {
  readonly decay: number;
  readonly minDecay?: number | undefined;
  /** Steps at which the average is a plain copy. */
  readonly updateAfterStep?: number | undefined;
  /** 1 - (1 + step / invGamma)^-power in place of (1 + step) / (10 + step). */
  readonly warmup?: { readonly invGamma: number; readonly power: number } | undefined;
}

/** Decay of the k-th update, k from 1 (diffusers' EMAModel). A constant decay is approached too: early averages would remember the start. */
export function decayAt(k: number, { decay, minDecay = 0, updateAfterStep = 0, warmup }: Decay): number {
  const step = Math.max(0, k - updateAfterStep - 1);
  if (step <= 0) return 0;
  const now = warmup === undefined ? (1 + step) / (10 + step) : 1 - (1 + step / warmup.invGamma) ** -warmup.power;
  return Math.max(minDecay, Math.min(decay, now));
}

/** beta_t = (1 - 1/t)^(gamma + 1), t from 1 (Karras et al. 2024, arXiv 2312.02696, eq. 2): an average whose width grows with the training. */
export const powerDecayAt = (t: number, gamma: number): number => (1 - 1 / t) ** (gamma + 1);

/** The width of a profile, relative to the training, as its exponent: (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = sigma^2 (their eq. 126). */
export function gammaOf(sigmaRel: number): number {
  const at = (gamma: number): number => (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3));
  // falls from 1/12 at gamma 0: no profile is wider than the even one
  if (!(sigmaRel > 0 && sigmaRel ** 2 <= at(0)))
    throw new WaverError(
      "invalid_input",
      `sigmaRel is more than 0 and at most ${Math.sqrt(at(0)).toFixed(3)}, not ${sigmaRel}`,
    );
  let [low, high] = [0, 1];
  while (at(high) > sigmaRel ** 2) high *= 2;
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2;
    if (at(middle) > sigmaRel ** 2) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Weights of what an average saw, from its decays in order: c_k = (1 - d_k) d_{k+1} d_{k+2} ... */
export function coefficients(decays: readonly number[]): number[] {
  const weights = new Array<number>(decays.length);
  let later = 1;
  for (let k = decays.length - 1; k >= 0; k--) {
    weights[k] = (1 - (decays[k] as number)) * later;
    later *= decays[k] as number;
  }
  return weights;
}

/** A snapshot of a power-function average: taken at step t, with exponent gamma. */
export interface Profile {
  readonly t: number;
  readonly gamma: number;
}

/** Weights of snapshots whose sum comes nearest to the average of another width or time (Karras et al. 2024, 3.2 and algorithm 3). */
export function postHoc(snapshots: readonly Profile[], target: Profile): number[] {
  return scope(() => {
    const products = snapshots.map((a) => snapshots.map((b) => inner(a, b)));
    const wanted = snapshots.map((each) => [inner(each, target)]);
    const solve = op("aten::linalg_solve");
    return solve(tensor(products, { dtype: "float64" }), tensor(wanted, { dtype: "float64" })).toNumbers();
  });
}

/** Inner product of two power-function profiles, in closed form (their eq. 13). */
function inner(a: Profile, b: Profile): number {
  const ratio = a.t / b.t;
  const exponent = a.t < b.t ? b.gamma : -a.gamma;
  return ((a.gamma + 1) * (b.gamma + 1) * ratio ** exponent) / ((a.gamma + b.gamma + 1) * Math.max(a.t, b.t));
}
