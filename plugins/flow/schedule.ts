/**
 * Where a sampler stops between noise (1) and data (0): plain numbers, no tensors.
 *
 * A sigma is the share of noise, and in flow matching also the flow time. Sigmas are float32, as the reference keeps them;
 * the timestep is what the network is told, 1000 * sigma, and UniPC truncates it to an integer.
 */
import { WaverError, z } from "../index.ts";

/** The fields of a diffusers `scheduler_config.json` that change a flow schedule. */
export const SchedulerConfig = z.object({
  _class_name: z.string().optional(),
  num_train_timesteps: z.int().positive().default(1000),
  /** FlowMatchEuler spells it `shift`, UniPC `flow_shift`. */
  shift: z.number().positive().optional(),
  flow_shift: z.number().positive().optional(),
  use_dynamic_shifting: z.boolean().default(false),
  time_shift_type: z.enum(["exponential", "linear"]).default("exponential"),
  shift_terminal: z.number().nullish(),
  invert_sigmas: z.boolean().default(false),
  final_sigmas_type: z.enum(["zero", "sigma_min"]).default("zero"),
  use_flow_sigmas: z.boolean().optional(),
  prediction_type: z.string().optional(),
  predict_x0: z.boolean().default(true),
  solver_order: z.int().min(1).max(3).default(2),
  /** UniPC's own are bh1 and bh2, DPM-Solver's midpoint and heun; each takes the other's for its default. */
  solver_type: z.enum(["bh1", "bh2", "midpoint", "heun", "logrho"]).optional(),
  algorithm_type: z.enum(["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"]).default("dpmsolver++"),
  lower_order_final: z.boolean().default(true),
  euler_at_final: z.boolean().default(false),
  disable_corrector: z.array(z.int()).default([]),
  use_karras_sigmas: z.boolean().nullish(),
  use_exponential_sigmas: z.boolean().nullish(),
  use_beta_sigmas: z.boolean().nullish(),
  thresholding: z.boolean().default(false),
  stochastic_sampling: z.boolean().default(false),
});
export type SchedulerConfig = z.output<typeof SchedulerConfig>;

/** What a request may change about a schedule. */
export interface ScheduleRequest {
  readonly numSteps: number;
  /** Timestep shift; the scheduler's own when absent. */
  readonly shift?: number | undefined;
  /** Resolution-dependent shift, for schedulers that ask for it. */
  readonly mu?: number | undefined;
  /** Explicit sigmas before shifting, the first step first. */
  readonly sigmas?: readonly number[] | undefined;
}

export interface Schedule {
  /** numSteps + 1 values, the last one where the sample ends. */
  readonly sigmas: Float32Array;
  /** What the network is told at each step, in thousandths. */
  readonly timesteps: Float64Array;
}

const f32 = Math.fround;
/** t = s u / (1 + (s - 1) u) (Waver 4.2; SD3, eq. 23). */
export const shifted = (u: number, shift: number): number => (shift * u) / (1 + (shift - 1) * u);
const linspace = (from: number, to: number, count: number): number[] =>
  Array.from({ length: count }, (_, i) =>
    count === 1 ? from : i === count - 1 ? to : from + (i * (to - from)) / (count - 1),
  );

/** Waver's grid (waver.md, Prediction): u = 1 - k / numSteps, shifted once. */
export function waverSchedule({ numSteps, shift = 1 }: ScheduleRequest): Schedule {
  const sigmas = Float32Array.from({ length: numSteps + 1 }, (_, k) => shifted(1 - k / numSteps, shift));
  return { sigmas, timesteps: Float64Array.from(sigmas.subarray(0, numSteps), (sigma) => f32(1000 * sigma)) };
}

/**
 * diffusers' FlowMatchEulerDiscreteScheduler. It spaces its points between the ends of an already shifted table and shifts
 * them again, so it shifts twice; explicit sigmas are shifted once.
 */
export function flowMatchEulerSchedule(config: SchedulerConfig, request: ScheduleRequest): Schedule {
  refuseUnknown(config);
  const shift = request.shift ?? config.shift ?? 1;
  const train = config.num_train_timesteps;
  // the constructor's table lives in float32: its smallest entry is 1 / train, shifted
  const least = f32(1 / train);
  const sigmaMin = config.use_dynamic_shifting ? least : f32(f32(shift * least) / f32(1 + f32((shift - 1) * least)));
  const points = request.sigmas?.map(f32) ?? linspace(train, sigmaMin * train, request.numSteps).map((t) => t / train);
  let sigmas = config.use_dynamic_shifting
    ? points.map((t) => dynamicShift(config, request.mu, t))
    : points.map((t) => shifted(t, shift));
  if (config.shift_terminal) sigmas = stretchTo(config.shift_terminal, sigmas);
  const kept = Float32Array.from(sigmas, (sigma) => (config.invert_sigmas ? f32(1 - f32(sigma)) : sigma));
  return {
    sigmas: Float32Array.from([...kept, config.invert_sigmas ? 1 : 0]),
    timesteps: Float64Array.from(kept, (sigma) => f32(sigma * train)),
  };
}

/** diffusers' UniPCMultistepScheduler with `use_flow_sigmas`: float64 until the end, then integer timesteps. */
export function flowUniPCSchedule(config: SchedulerConfig, request: ScheduleRequest): Schedule {
  refuseUnknown(config);
  flowOnly(config, "UniPC");
  const shift = request.shift ?? config.flow_shift ?? 1;
  const train = config.num_train_timesteps;
  const points = request.sigmas ?? linspace(1, 1 / train, request.numSteps + 1).slice(0, -1);
  let sigmas = config.use_dynamic_shifting
    ? points.map((t) => dynamicShift(config, request.mu, t))
    : points.map((t) => shifted(t, shift));
  if (config.shift_terminal) sigmas = stretchTo(config.shift_terminal, sigmas);
  if (Math.abs((sigmas[0] as number) - 1) < CLEARANCE) sigmas[0] = (sigmas[0] as number) - CLEARANCE;
  const last = config.final_sigmas_type === "zero" ? 0 : (sigmas.at(-1) as number);
  return {
    sigmas: Float32Array.from([...sigmas, last]),
    timesteps: Float64Array.from(sigmas, (sigma) => Math.trunc(sigma * train)),
  };
}

/**
 * diffusers' DPMSolverMultistepScheduler with `use_flow_sigmas`: evenly spaced in the unshifted time from 1 - 1 / train down,
 * so that it begins just below pure noise. Integer timesteps.
 */
export function flowDPMSchedule(config: SchedulerConfig, request: ScheduleRequest): Schedule {
  refuseUnknown(config);
  flowOnly(config, "DPM-Solver++");
  if (config.final_sigmas_type !== "zero")
    throw new WaverError(
      "invalid_input",
      "DPM-Solver++ ends a flow at 0: final_sigmas_type sigma_min is of noise tables",
      {
        hint: "set final_sigmas_type to zero in scheduler_config.json",
      },
    );
  // diffusers takes a mu for the logarithm of the shift
  const shift = request.shift ?? (request.mu === undefined ? (config.flow_shift ?? 1) : Math.exp(request.mu));
  const train = config.num_train_timesteps;
  const points =
    request.sigmas ??
    linspace(1, 1 / train, request.numSteps + 1)
      .slice(1)
      .map((alpha) => 1 - alpha)
      .reverse();
  const sigmas = points.map((t) => Math.min(shifted(t, shift), 1 - CLEARANCE));
  return {
    sigmas: Float32Array.from([...sigmas, 0]),
    timesteps: Float64Array.from(sigmas, (sigma) => Math.trunc(sigma * train)),
  };
}

/** log(1 - sigma) must stay finite: solvers in log signal-to-noise start this far from pure noise. */
const CLEARANCE = 1e-6;

function flowOnly(config: SchedulerConfig, solver: string): void {
  if (config.use_flow_sigmas === true && (config.prediction_type ?? "flow_prediction") === "flow_prediction") return;
  throw new WaverError("invalid_input", `${solver} is implemented for flow matching only`, {
    hint: "the scheduler_config.json must say use_flow_sigmas: true and prediction_type: flow_prediction",
  });
}

/** A shift that grows with resolution: mu is given by the pipeline (SD3; Flux). */
function dynamicShift(config: SchedulerConfig, mu: number | undefined, t: number): number {
  if (mu === undefined)
    throw new WaverError("invalid_input", "this scheduler shifts by resolution and needs mu", {
      hint: "give sampler.mu, or set use_dynamic_shifting to false",
    });
  const weight = config.time_shift_type === "exponential" ? Math.exp(mu) : mu;
  return weight / (weight + (1 / t - 1));
}

/** Stretches 1 - sigma so that the last sigma is `terminal` (LTX-Video). */
function stretchTo(terminal: number, sigmas: readonly number[]): number[] {
  const scale = (1 - (sigmas.at(-1) as number)) / (1 - terminal);
  return sigmas.map((sigma) => 1 - (1 - sigma) / scale);
}

/** A setting that would change the result and is not implemented is an error, never ignored. */
function refuseUnknown(config: SchedulerConfig): void {
  const on = (
    ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "thresholding", "stochastic_sampling"] as const
  ).find((key) => config[key] === true);
  if (on !== undefined)
    throw new WaverError("invalid_input", `the scheduler sets ${on}, which no sampler here implements`, {
      hint: `set ${on} to false in scheduler_config.json`,
    });
}
