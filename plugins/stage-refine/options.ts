/** What a recipe chooses about the refiner's training. */
import { z } from "zod";

export const RefineOptions = z.strictObject({
  factor: z
    .number()
    .min(1)
    .default(3)
    .meta({ description: "pixel degradation: down by this factor and up again (Waver 2.2: 1080p to 360p is 3)" }),
  filter: z
    .enum(["bicubic", "bilinear", "area"])
    .default("bicubic")
    .meta({ description: "how pixels are resized; the paper does not say" }),
  chroma: z.boolean().default(false).meta({
    description:
      "halve the colour resolution of small and clean pictures alike, as files have it (4:2:0): what will be refined, and what it should become",
  }),
  wd: z
    .tuple([z.number().min(0).max(1), z.number().min(0).max(1)])
    .default([0.85, 0.95])
    .meta({ description: "range of the latent noise w_d, found at 1080p (Waver 2.2)" }),
  scaleWd: z.boolean().default(false).meta({
    description: "bring w_d to the size of the latents by equal signal-to-noise; 0.85-0.95 become 0.34-0.63 at 16x16",
  }),
  shift: z.number().positive().default(1).meta({ description: "shift of w, as of the flow time (Waver Table 2: 4.5)" }),
  textDropout: z.number().min(0).max(1).default(0.1).meta({ description: "probability of an empty caption" }),
});
export type RefineOptions = z.output<typeof RefineOptions>;
