/** How much moves in a clip, with the camera's own motion taken out (Waver 3.1, dynamic quality). */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

export default definePlugin({
  name: "score-motion",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("score", {
      id: "motion",
      summary:
        "patch flow by inverse search, split into camera, foreground and background; a named substitute for RAFT, whose weights no package carries",
      source: "Waver 3.1, dynamic quality; Kroeger et al. 2016 (DIS), arXiv 1603.03590",
      runs: "worker",
      options: z.strictObject({}),
      traits: {
        // At 8 frames a second a walk moves by a pixel or two of this view, a fast pan by about ten: both in reach of three levels.
        view: { width: 128, height: 72, fit: "stretch", rate: 8, format: "gray8", batch: 16 },
        measures: ["total", "camera", "foreground", "background", "foregroundShare", "diversity"],
      },
      async run({ frames }, { ctx }) {
        const { measureMotion } = await import("./motion.ts");
        return measureMotion(frames, ctx);
      },
    }),
  ],
});
