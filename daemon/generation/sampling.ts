/** The sampler of a request, and the latents that it and the guides hold. */
import type { Context, Denoiser, Pick, Picks, Used } from "../../plugins/index.ts";
import type { SamplingBytes } from "../runner/generation/sampling.ts";
import { Guides } from "./guides.ts";
import { type Pipeline, pathFor } from "./pipeline.ts";
import type { GenerateInput } from "./request.ts";
import type { Shape } from "./shape.ts";

/** Steps that a plan runs: long before, solvers remember as much as they ever will. */
const MOST_STEPS = 10;

export async function samplerOf(model: Pipeline, picks: Picks, ctx: Context): Promise<Used<"sample">> {
  const { id, ...options } = (picks["sampler"] as Pick | undefined) ?? { id: model.sampler.id };
  return ctx.use("sample", id, { ...pathFor(model.sampler, id, "sample", ctx), ...options });
}

/** Of one batch. One that reads values cannot run without any: what it holds is left out of the plan, and said. */
export async function planSampling(
  { request, model, picks, ctx }: { request: GenerateInput; model: Pipeline; picks: Picks; ctx: Context },
  { convention }: Denoiser,
  { latents: [, ...rest], numSteps }: Shape,
  batch: number,
): Promise<SamplingBytes> {
  const { samplingBytes } = await import("../runner/generation/sampling.ts");
  const from = model.family2?.from ?? 0;
  try {
    const guides = await Guides.open(picks, ctx);
    return await samplingBytes(await samplerOf(model, picks, ctx), (t) => guides.of(t < from ? 1 : 0), {
      ...{ shape: [batch, ...rest], numSteps: Math.min(numSteps, MOST_STEPS), convention, signal: ctx.signal },
      shift: request.shift,
    });
  } catch (error) {
    ctx.signal.throwIfAborted();
    ctx.log("sampling_not_planned", { reason: (error as Error).message });
    return { besidePass: 0, betweenPasses: 0 };
  }
}
