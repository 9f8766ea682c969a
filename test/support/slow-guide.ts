import type { Tensor } from "../../native/index.ts";
import { type GuideCall, type Provided, provide, z } from "../../plugins/index.ts";

/** Guide `slow`: takes its time, so that progress is worth saving; with `scale` it asks for both prompts, the negative one twice. */
export const slowGuide = (onStep: (step: number) => void, scale?: number): Provided =>
  provide("guide", {
    id: "slow",
    summary: "waits at each step",
    runs: "device",
    options: z.strictObject({}),
    traits: {},
    run:
      async () =>
      ({ predict, step }: GuideCall): Tensor => {
        onStep(step);
        Bun.sleepSync(150);
        if (scale === undefined) return predict("positive");
        return predict("negative").add(predict("positive").sub(predict("negative")).mul(scale));
      },
  });
