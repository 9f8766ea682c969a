/** Euler's method on the flow: one prediction a step, x moves along it by the step in time. Latents are [B C T h w]. */

import type { Tensor } from "../../native/index.ts";
import type { SampleRequest } from "../index.ts";
import { type Guarded, integrate } from "./integrate.ts";
import type { Schedule } from "./schedule.ts";

export function euler(request: SampleRequest, schedule: Schedule): Promise<Tensor> {
  const { sigmas } = schedule;
  // noise - data points away from the data, so time must run down along it; data - noise points at it
  const towards = request.convention.predicts === "noise-data" ? 1 : -1;
  const step = ({ x, prediction, step }: Guarded): { x: Tensor } => {
    const dt = Math.fround((sigmas[step + 1] as number) - (sigmas[step] as number));
    return { x: x.add(prediction.mul(towards * dt)) };
  };
  return integrate(request, schedule, step);
}
