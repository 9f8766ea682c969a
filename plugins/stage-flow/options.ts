/** What a recipe chooses about flow matching. */
import { z } from "zod";
import { Timesteps } from "./timesteps.ts";

export const FlowOptions = z.strictObject({
  timesteps: z
    .strictObject({ image: Timesteps, video: Timesteps })
    .default({ image: { kind: "logit-normal", mean: 0.5, std: 1 }, video: { kind: "mode", scale: 1.29 } })
    .meta({ description: "distribution of the flow time (Waver 4.3: logit-normal for T2I, mode for T2V and I2V)" }),
  shift: z
    .number()
    .positive()
    .default(1)
    .meta({ description: "sigma shift (Waver Table 2: 1 at 256p to 4.5 at 1080p)" }),
  firstFrame: z
    .number()
    .min(0)
    .max(1)
    .default(0.2)
    .meta({ description: "probability that a video's first frame is known (Waver 4.3: 0.2)" }),
  textDropout: z
    .number()
    .min(0)
    .max(1)
    .default(0.1)
    .meta({ description: "probability of an empty caption, for guidance without a classifier" }),
  stratified: z
    .boolean()
    .default(true)
    .meta({ description: "one flow time from each of B equal strata of the distribution" }),
});
export type FlowOptions = z.output<typeof FlowOptions>;
