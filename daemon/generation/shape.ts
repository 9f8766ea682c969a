/** The sizes of every sample, and the task they add up to: from the request, the model's folder and its networks. */
import { z } from "zod";
import { type Codec, type Context, type Denoiser, SampleDefaults, Task, WaverError } from "../../plugins/index.ts";
import type { Pipeline } from "./pipeline.ts";
import { checkSize, checkTask, framesIn, type GenerateInput, resolved, taskOf } from "./request.ts";

/** `latents`: [1 C T h w]. */
export const Shape = SampleDefaults.extend({ task: Task, latents: z.array(z.int()) });
export type Shape = z.output<typeof Shape>;

export function shapeOf(
  request: GenerateInput,
  model: Pipeline,
  { codec, family }: { readonly codec: Codec; readonly family: Denoiser },
  ctx: Context,
): Shape {
  const from = [request, model.defaults, family.defaults ?? {}];
  const fps = resolved("fps", ...from, { fps: 16 });
  const { seconds } = request;
  const size = {
    width: resolved("width", ...from),
    height: resolved("height", ...from),
    numFrames: seconds === undefined ? resolved("numFrames", ...from) : framesIn(seconds, fps, codec.latent.stride[0]),
  };
  checkSize(size, codec.latent, family.patch);
  if (codec.latent.channels !== family.latent.channels)
    throw new WaverError(
      "checkpoint_mismatch",
      `the VAE has ${codec.latent.channels} latent channels, the denoiser takes ${family.latent.channels}`,
    );
  const task = taskOf(request, size.numFrames);
  const traits = ctx.providers("family").find(({ id }) => id === model.family.id)?.traits;
  checkTask(task, family.tasks ?? traits?.tasks ?? [], model.family.className);
  const [ft, fh, fw] = codec.latent.stride;
  return {
    ...size,
    task,
    latents: [1, codec.latent.channels, 1 + (size.numFrames - 1) / ft, size.height / fh, size.width / fw],
    fps,
    numSteps: resolved("numSteps", ...from),
  };
}
