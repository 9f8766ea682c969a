/**
 * Which flow times a training step looks at (Waver 4.3, Noise scheduling; after SD3, Esser et al. 2024).
 *
 * t = 1 is pure noise. "Lognorm(0.5, 1)" of the paper is the logit-normal of Eq. 1; Mode(1.29) is Eq. 2. The sigma shift
 * of Table 2 comes after either. All arithmetic is float64.
 */
import { z } from "zod";

export const Timesteps = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("logit-normal"),
    mean: z.number().default(0.5),
    std: z.number().positive().default(1),
  }),
  z.strictObject({
    kind: z.literal("mode"),
    scale: z
      .number()
      .min(-1)
      .max(2 / (Math.PI - 2))
      .default(1.29),
  }),
  z.strictObject({ kind: z.literal("uniform") }),
]);
export type Timesteps = z.output<typeof Timesteps>;

/** u in (0, 1) -> t, the distribution's quantile (mode sampling falls with u). */
export function timestep(u: number, distribution: Timesteps): number {
  switch (distribution.kind) {
    case "logit-normal":
      return logitNormal(normalQuantile(u), distribution.mean, distribution.std);
    case "mode":
      return mode(u, distribution.scale);
    case "uniform":
      return u;
  }
}

/** t' = s t / (1 + (s - 1) t): the larger the shift, the more noise. Grows with resolution (Waver 4.1, Table 2). */
export const shiftTime = (t: number, shift: number): number => (shift * t) / (1 + (shift - 1) * t);

/** A standard normal z -> t, whose logit is normal with the given mean and deviation (Eq. 1). */
export const logitNormal = (z: number, mean: number, std: number): number => 1 / (1 + Math.exp(-(mean + std * z)));

/** Waver Eq. 1; 0 at both ends. */
export function logitNormalDensity(t: number, mean: number, std: number): number {
  if (t <= 0 || t >= 1) return 0;
  const logit = Math.log(t / (1 - t));
  return Math.exp(-((logit - mean) ** 2) / (2 * std * std)) / (std * Math.sqrt(2 * Math.PI) * t * (1 - t));
}

/** Waver Eq. 2: falls from 1 at u = 0 to 0 at u = 1. */
export const mode = (u: number, scale: number): number => 1 - u - scale * (Math.cos((Math.PI / 2) * u) ** 2 - 1 + u);

const modeSlope = (u: number, scale: number): number => -1 - scale + scale * (Math.PI / 2) * Math.sin(Math.PI * u);

/** Density of mode sampling: 1 / |f'(u)| where f(u) = t. f is monotone for every scale that `Timesteps` allows. */
export function modeDensity(t: number, scale: number): number {
  let [low, high] = [0, 1];
  for (let i = 0; i < 64; i++) {
    const middle = (low + high) / 2;
    if (mode(middle, scale) > t) low = middle;
    else high = middle;
  }
  return 1 / Math.abs(modeSlope((low + high) / 2, scale));
}

/** Inverse of the standard normal distribution function: Wichura 1988, AS 241 PPND16, about 1e-16 relative. */
export function normalQuantile(p: number): number {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * horner(CENTRAL, r)) / horner(CENTRAL_BELOW, r);
  }
  const r = Math.sqrt(-Math.log(q < 0 ? p : 1 - p));
  const x =
    r <= 5 ? horner(MIDDLE, r - 1.6) / horner(MIDDLE_BELOW, r - 1.6) : horner(TAIL, r - 5) / horner(TAIL_BELOW, r - 5);
  return q < 0 ? -x : x;
}

const horner = (coefficients: readonly number[], x: number): number =>
  coefficients.reduceRight((sum, c) => sum * x + c, 0);

// Coefficients of AS 241, lowest power first.
const CENTRAL = [
  3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946, 45921.95393154987, 67265.7709270087,
  33430.57558358813, 2509.0809287301227,
];
const CENTRAL_BELOW = [
  1, 42.31333070160091, 687.1870074920579, 5394.196021424751, 21213.794301586597, 39307.89580009271, 28729.085735721943,
  5226.495278852546,
];
const MIDDLE = [
  1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045, 1.2704582524523684, 0.2417807251774506,
  0.022723844989269184, 0.0007745450142783414,
];
const MIDDLE_BELOW = [
  1, 2.053191626637759, 1.6763848301838038, 0.6897673349851, 0.14810397642748008, 0.015198666563616457,
  0.0005475938084995345, 1.0507500716444169e-9,
];
const TAIL = [
  6.657904643501103, 5.463784911164114, 1.7848265399172913, 0.29656057182850487, 0.026532189526576124,
  0.0012426609473880784, 2.7115555687434876e-5, 2.0103343992922881e-7,
];
const TAIL_BELOW = [
  1, 0.599832206555888, 0.1369298809227358, 0.014875361290850615, 0.0007868691311456133, 1.8463183175100548e-5,
  1.421511758316446e-7, 2.0442631033899397e-15,
];
