/** Adaptive projected guidance: the paper's, and Waver's for video. */
import { definePlugin, type Guide, type GuideCall, provide, z } from "../index.ts";
import type { Apg, Momentum } from "./apg.ts";

/** Waver 4.5: the threshold of 27 was found on 720p latents, 16 x 90 x 160 elements a frame. */
const ELEMENTS_720P = 16 * 90 * 160;

const common = {
  eta: z.number().describe("weight of the guidance along the conditional prediction"),
  threshold: z
    .union([z.number().min(0), z.literal("scaled")])
    .describe(
      "largest norm of the guidance; 0: no limit; scaled: 27 at 720p, by the root of the latent's size elsewhere",
    ),
  momentum: z.number().nullable().default(null).describe("weight of the guidance of earlier steps; null: none"),
};

/** Wraps the arithmetic, which is loaded with the engine, into a guide. */
async function guideOf(
  settings: Omit<Apg, "threshold"> & { threshold: number | "scaled"; momentum: number | null },
): Promise<Guide> {
  const { apg, Momentum: Running } = await import("./apg.ts");
  const running: Momentum | undefined = settings.momentum === null ? undefined : new Running(settings.momentum);
  const guide: Guide = ({ predict, step, latents }: GuideCall) => {
    const cond = predict("positive");
    if (settings.scale === 1) return cond;
    const uncond = predict("negative");
    if (step === 0) running?.reset();
    const difference = cond.sub(uncond);
    const [, C, , h, w] = latents.shape as [number, number, number, number, number];
    const threshold =
      settings.threshold === "scaled" ? 27 * Math.sqrt((C * h * w) / ELEMENTS_720P) : settings.threshold;
    return apg(cond, uncond, running?.update(difference) ?? difference, { ...settings, threshold }).prediction;
  };
  const passes = () => (settings.scale === 1 ? 1 : 2);
  return Object.assign(guide, { passes, ...(running === undefined ? {} : { memory: running }) });
}

export default definePlugin({
  name: "guide-apg",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("guide", {
      id: "video-apg",
      summary: "projected guidance, one norm and one projection a latent frame",
      source: "Waver 4.5 (scale 8, threshold 27); eta and momentum are not given there: 0 and none",
      runs: "device",
      options: z.strictObject({
        scale: z.number().min(0).default(8),
        ...common,
        eta: common.eta.default(0),
        threshold: common.threshold.default("scaled"),
      }),
      traits: {},
      run: async (_input, { options }) => guideOf({ ...options, axes: [1, 3, 4], form: "paper" }),
    }),
    provide("guide", {
      id: "apg",
      summary: "adaptive projected guidance over the whole sample",
      source: "Sadat et al. 2024, arXiv 2410.02416, algorithm 1",
      runs: "device",
      options: z.strictObject({
        scale: z.number().min(0).default(7.5),
        ...common,
        eta: common.eta.default(1),
        threshold: common.threshold.default(15),
        form: z.enum(["paper", "diffusers"]).default("paper"),
      }),
      traits: {},
      run: async (_input, { options }) => guideOf({ ...options, axes: [1, 2, 3, 4] }),
    }),
  ],
});
