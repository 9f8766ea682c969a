/** Classifier-free guidance, and none. */
import { definePlugin, type Guide, provide, z } from "../index.ts";

export default definePlugin({
  name: "guide-cfg",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("guide", {
      id: "cfg",
      summary: "classifier-free guidance",
      source: "Ho and Salimans 2022, arXiv 2207.12598; Waver 4.5 (scale 5)",
      runs: "device",
      options: z.strictObject({
        scale: z.number().min(0).default(5).describe("weight of the prompt; 1 turns guidance off and saves a pass"),
        rescale: z
          .number()
          .min(0)
          .max(1)
          .default(0)
          .describe("how far the spread is drawn back to that of the prompted prediction"),
        from: z.number().min(0).max(1).default(0).describe("part of the steps before guidance starts"),
        to: z.number().min(0).max(1).default(1).describe("part of the steps after which it stops"),
      }),
      traits: {},
      async run(_input, { options: { scale, rescale, from, to } }) {
        const { cfg } = await import("./cfg.ts");
        const guides = ({ step, numSteps }: { step: number; numSteps: number }): boolean =>
          scale !== 1 && step >= Math.trunc(from * numSteps) && step < Math.trunc(to * numSteps);
        const guide: Guide = (call) => {
          const cond = call.predict("positive");
          return guides(call) ? cfg(cond, call.predict("negative"), scale, rescale) : cond;
        };
        return Object.assign(guide, { passes: (at: { step: number; numSteps: number }) => (guides(at) ? 2 : 1) });
      },
    }),
    provide("guide", {
      id: "none",
      summary: "the prompted prediction as it is",
      runs: "device",
      options: z.strictObject({}),
      traits: {},
      async run() {
        const guide: Guide = (call) => call.predict("positive");
        return Object.assign(guide, { passes: () => 1 });
      },
    }),
  ],
});
