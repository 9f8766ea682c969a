/** A small perceptual embedding without weights: for dedup and shot refinement where no feature network can be loaded. */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

export default definePlugin({
  name: "embed-thumbprint",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("embed", {
      id: "thumbprint",
      summary:
        "structure (low DCT frequencies) and colour of thumbnails, averaged over a clip; sees copies, not meaning",
      source: "in the manner of pHash (Zauner 2010); a substitute for learned features",
      runs: "worker",
      options: z.strictObject({}),
      // 32 x 32 is pHash's size; four frames a second follow the content of a shot.
      traits: { view: { width: 32, height: 32, fit: "stretch", rate: 4, format: "rgb24", batch: 16 }, dim: 111 },
      async run({ frames }) {
        const { thumbprint } = await import("./thumbprint.ts");
        return thumbprint(frames);
      },
    }),
  ],
});
