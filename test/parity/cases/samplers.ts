/** Samplers on the velocity field that the cases state: v(x, t) = A tanh(x) + B cos(3 t / 1000) + C t / 1000, t the timestep. */
import { keep, scope, stack, type Tensor, tensor } from "../../../native/index.ts";
import { readSchedulerConfig } from "../../../plugins/flow/config.ts";
import { dpmSolver, dpmSolverOf } from "../../../plugins/flow/dpmpp.ts";
import { euler } from "../../../plugins/flow/euler.ts";
import {
  flowDPMSchedule,
  flowMatchEulerSchedule,
  flowUniPCSchedule,
  type Schedule,
  type ScheduleRequest,
  type SchedulerConfig,
} from "../../../plugins/flow/schedule.ts";
import { solverOf, uniPC } from "../../../plugins/flow/unipc.ts";
import type { SampleRequest } from "../../../plugins/index.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

interface Run {
  readonly steps: number;
  readonly set_timesteps: { readonly mu?: number; readonly sigmas?: readonly number[] };
}

/** A diffusers class by what runs it here. */
const SAMPLERS: Readonly<
  Record<
    string,
    {
      schedule(config: SchedulerConfig, request: ScheduleRequest): Schedule;
      sample(request: SampleRequest, schedule: Schedule, config: SchedulerConfig): Promise<Tensor>;
    }
  >
> = {
  FlowMatchEulerDiscreteScheduler: { schedule: flowMatchEulerSchedule, sample: euler },
  UniPCMultistepScheduler: {
    schedule: flowUniPCSchedule,
    sample: (request, schedule, config) => uniPC(request, schedule, solverOf(config)),
  },
  DPMSolverMultistepScheduler: {
    schedule: flowDPMSchedule,
    sample: (request, schedule, config) => dpmSolver(request, schedule, dpmSolverOf(config)),
  },
};

export default defineCase({
  cases: ["sched_flow_match_euler", "sched_unipc_flow", "sched_dpmpp_flow"],
  async run(golden, produce) {
    using A = toTensor(golden.input("A"));
    using B = toTensor(golden.input("B"));
    using C = toTensor(golden.input("C"));
    using start = toTensor(golden.input("x_init"));
    for (const [name, { steps, set_timesteps }] of Object.entries(golden.params.runs as Record<string, Run>)) {
      const config = readSchedulerConfig(golden.path(name));
      const sampler = SAMPLERS[config._class_name as string];
      if (sampler === undefined) throw new Error(`no sampler for ${config._class_name}`);
      const schedule = sampler.schedule(config, { numSteps: steps, ...set_timesteps });
      const velocities: Tensor[] = [];
      const samples: Tensor[] = [];
      const request: SampleRequest = {
        latents: start,
        numSteps: steps,
        convention: { timeScale: 1000, predicts: "noise-data" },
        predict(x, _t, { t }) {
          const v = A.mul(x.tanh())
            .add(B.mul(Math.cos(3 * t)))
            .add(C.mul(t));
          velocities.push(keep(v.clone()));
          return v;
        },
        async onStep({ latents }) {
          samples.push(scope(() => latents.clone()));
        },
        signal: new AbortController().signal,
      };
      const last = await sampler.sample(request, schedule, config);
      scope(() => {
        produce(`${name}.timesteps`, tensor(schedule.timesteps));
        produce(`${name}.sigmas`, tensor(schedule.sigmas));
        produce(`${name}.velocities`, stack(velocities));
        produce(`${name}.samples`, stack(samples));
      });
      for (const made of [last, ...velocities, ...samples]) made.dispose();
    }
  },
});
