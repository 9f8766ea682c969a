import { definePlugin, provide, z } from "../index.ts";
import { FlowOptions } from "./options.ts";

export default definePlugin({
  name: "stage-flow",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("objective", {
      id: "flow",
      summary: "flow matching on images and videos, with or without a known first frame",
      source: "Waver 4.1-4.3, Eq. 1 and 2",
      runs: "device",
      options: FlowOptions,
      traits: { tasks: ["t2i", "t2v", "i2v"], fields: ["latents"] },
      async run(request, { options }) {
        const { FlowObjective } = await import("./objective.ts");
        return new FlowObjective(request, options);
      },
    }),
  ],
});
