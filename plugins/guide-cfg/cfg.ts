/** Classifier-free guidance and its rescaling. Predictions are [B C T h w]. */
import type { Tensor } from "../../native/index.ts";

/** uncond + scale * (cond - uncond). With `rescale`, the spread of each sample is drawn back to that of cond (Lin et al. 2023, 3.4). */
export function cfg(cond: Tensor, uncond: Tensor, scale: number, rescale = 0): Tensor {
  const guided = uncond.add(cond.sub(uncond).mul(scale));
  if (rescale === 0) return guided;
  const axes = [1, 2, 3, 4];
  const drawnBack = guided.mul(cond.std(axes, true).div(guided.std(axes, true)));
  return drawnBack.mul(rescale).add(guided.mul(1 - rescale));
}
