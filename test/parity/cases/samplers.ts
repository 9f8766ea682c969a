/** Samplers on the velocity field that the cases state: v(x, t) = A tanh(x) + B cos(3 t / 1000) + C t / 1000, t the timestep. */
import { keep, scope, stack, type Tensor, tensor } from "../../../native/index.ts";
import { readSchedulerConfig } from "../../../plugins/flow/config.ts";
import { euler } from "../../../plugins/flow/euler.ts";
import { flowMatchEulerSchedule, flowUniPCSchedule } from "../../../plugins/flow/schedule.ts";
import { solverOf, uniPC } from "../../../plugins/flow/unipc.ts";
import type { SampleRequest } from "../../../plugins/index.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

interface Run {
  readonly steps: number;
  readonly set_timesteps: { readonly mu?: number; readonly sigmas?: readonly number[] };
}

export default defineCase({
  cases: ["sched_flow_match_euler", "sched_unipc_flow"],
  async run(golden, produce) {
    using A = toTensor(golden.input("A"));
    using B = toTensor(golden.input("B"));
    using C = toTensor(golden.input("C"));
    using start = toTensor(golden.input("x_init"));
    for (const [name, { steps, set_timesteps }] of Object.entries(golden.params.runs as Record<string, Run>)) {
      const config = readSchedulerConfig(golden.path(name));
      const isEuler = config._class_name === "FlowMatchEulerDiscreteScheduler";
      const schedule = (isEuler ? flowMatchEulerSchedule : flowUniPCSchedule)(config, {
        numSteps: steps,
        ...set_timesteps,
      });
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
      const last = await (isEuler ? euler(request, schedule) : uniPC(request, schedule, solverOf(config)));
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
