import { definePlugin, provide, z } from "../index.ts";
import { RefineOptions } from "./options.ts";

export default definePlugin({
  name: "stage-refine",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("objective", {
      id: "refine",
      summary: "flow from degraded to clean latents of the same clip",
      source: "Waver 2.2, Pixel and Latent Degradation",
      runs: "device",
      options: RefineOptions,
      traits: { tasks: ["t2v"], fields: ["latents", "degraded"] },
      async run(request, { options }) {
        const { RefineObjective } = await import("./objective.ts");
        return new RefineObjective(request, options);
      },
    }),
  ],
});
