/** The loop that every sampler shares: predict, step, publish, go on; cancelled between steps, resumable after each. */

import { scope, type Tensor, tensor } from "../../native/index.ts";
import { type SampleRequest, WaverError } from "../index.ts";
import type { Schedule } from "./schedule.ts";

/** One step as a solver sees it. Tensors are borrowed. */
export interface Guarded {
  readonly step: number;
  readonly x: Tensor;
  /** The guided prediction at x. */
  readonly prediction: Tensor;
  /** What the solver left after the step before. */
  readonly state: Readonly<Record<string, Tensor>>;
}

/** A solver's step: the new latents and what it needs to remember. Runs inside a scope. */
export type Step = (at: Guarded) => { readonly x: Tensor; readonly state?: Readonly<Record<string, Tensor>> };

export async function integrate(request: SampleRequest, schedule: Schedule, step: Step): Promise<Tensor> {
  const numSteps = schedule.timesteps.length;
  let x = scoped(() => request.latents.clone());
  let state: Readonly<Record<string, Tensor>> = scoped(() => copy(request.state ?? {}));
  try {
    for (let k = request.startStep ?? 0; k < numSteps; k++) {
      if (request.signal.aborted)
        throw new WaverError("cancelled", "the job was cancelled", { cause: request.signal.reason });
      const time = (schedule.timesteps[k] as number) / 1000;
      await request.beforeStep?.({ step: k, numSteps, t: time });
      const next = scope(() => {
        const t = tensor(new Array<number>(x.size(0)).fill(time), { dtype: "float64", device: x.device });
        const prediction = request.predict(x, t, { step: k, numSteps, t: time });
        const done = step({ step: k, x, prediction, state });
        // a view of a dying tensor, or the old x itself, must not outlive this scope
        return { x: done.x, state: copy(done.state ?? {}) };
      });
      x.dispose();
      disposeAll(state);
      ({ x, state } = next);
      await request.onStep?.({ step: k, numSteps, latents: x, state });
    }
  } catch (error) {
    x.dispose();
    throw error;
  } finally {
    disposeAll(state);
  }
  return x;
}

const scoped = <T>(make: () => T): T => scope(make);
const copy = (tensors: Readonly<Record<string, Tensor>>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(tensors).map(([name, value]) => [name, value.clone()]));
const disposeAll = (tensors: Readonly<Record<string, Tensor>>): void => {
  for (const value of Object.values(tensors)) value.dispose();
};
