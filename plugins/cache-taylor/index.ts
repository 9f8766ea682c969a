/** Predictions of a denoiser extrapolated from earlier ones. */
import { definePlugin, MEASURE, provide, z } from "../index.ts";

export default definePlugin({
  name: "cache-taylor",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("accelerate", {
      id: "taylor",
      summary: "runs the network in every n-th step and extrapolates what it would say in between",
      source:
        "Liu et al. 2025 (TaylorSeer), arXiv 2503.06923, equation 4; on the network's output, as diffusers' lite mode",
      runs: "device",
      options: z.strictObject({
        interval: z.int().min(2).default(3).describe("steps from one run of the network to the next"),
        order: z.int().min(0).max(3).default(1).describe("of the series; 0 repeats what the network said last"),
        whole: z.int().positive().default(3).describe("first steps of each network, in which it always runs"),
        to: z.number().min(0).max(1).default(1).describe("part of the steps after which it always runs"),
        measure: MEASURE,
      }),
      traits: { ranks: true },
      async run(request, { options }) {
        const { Taylor } = await import("./taylor.ts");
        return new Taylor(options, request.memory);
      },
    }),
  ],
});
