/** Measures of a clip's frames that need no network: a floor under the learned scores of Waver 3.1 and 3.2. */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

export default definePlugin({
  name: "score-visual",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("score", {
      id: "visual",
      summary: "sharpness, exposure, contrast, saturation, borders and stillness",
      source: "Waver 3.1 (static quality), Fig. 9a (dark or blurry, overexposed, black borders, static)",
      runs: "worker",
      options: z.strictObject({}),
      traits: {
        // Large enough to tell a soft 720p picture from a sharp one; four frames a second follow a shot's light.
        view: { width: 512, height: 288, fit: "stretch", rate: 4, format: "rgb24", batch: 8 },
        measures: ["sharpness", "brightness", "dark", "bright", "contrast", "saturation", "border", "change", "still"],
      },
      async run({ frames }) {
        const { measure } = await import("./measure.ts");
        return measure(frames);
      },
    }),
  ],
});
