/** Shots of a source: PySceneDetect's detectors, as Waver 3.1 uses them, with its refinement by features on request. */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

/** Frames are compared small: PySceneDetect shrinks the longer side to 256 before it looks. Its measures are means, so the aspect may be lost. */
const view = { width: 256, height: 144, fit: "stretch", rate: "native", format: "rgb24", batch: 16 } as const;

const minSceneLen = z
  .int()
  .nonnegative()
  .default(15)
  .meta({ description: "frames below which two cuts are one (PySceneDetect's default)" });
const weights = z
  .strictObject({ hue: z.number(), sat: z.number(), lum: z.number(), edges: z.number() })
  .default({ hue: 1, sat: 1, lum: 1, edges: 0 })
  .meta({ description: "weights of the four differences" });
const refine = z
  .strictObject({
    embed: z.string().meta({ description: "provider of the embed hook" }),
    threshold: z
      .number()
      .min(-1)
      .max(1)
      .meta({ description: "cosine of neighbouring features below which the shot changes" }),
    step: z.number().positive().default(0.5).meta({ description: "seconds that one feature stands for" }),
  })
  .optional()
  .meta({ description: "further cuts where features of neighbouring moments differ (Waver 3.1)" });

const content = z.strictObject({
  threshold: z
    .number()
    .positive()
    .default(27)
    .meta({ description: "weighted difference that makes a cut (PySceneDetect's default)" }),
  minSceneLen,
  weights,
  refine,
});
const adaptive = z.strictObject({
  adaptiveThreshold: z
    .number()
    .positive()
    .default(3)
    .meta({ description: "difference over the mean of its neighbours (PySceneDetect's default)" }),
  windowWidth: z.int().positive().default(2).meta({ description: "neighbours on each side" }),
  minContentVal: z.number().nonnegative().default(15).meta({ description: "difference below which nothing is a cut" }),
  minSceneLen,
  weights,
  refine,
});
const fade = z.strictObject({
  threshold: z
    .number()
    .positive()
    .default(12)
    .meta({ description: "mean grey level of black (PySceneDetect's default)" }),
  fadeBias: z
    .number()
    .min(-1)
    .max(1)
    .default(0)
    .meta({ description: "-1: cut where it goes dark, 1: where it comes back" }),
  addFinalScene: z.boolean().default(false).meta({ description: "what follows a last fade out is a shot" }),
  minSceneLen,
});

export default definePlugin({
  name: "segment-shots",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("segment", {
      id: "content",
      summary: "cuts where hue, saturation and brightness change at once",
      source: "PySceneDetect ContentDetector 0.7; Waver 3.1",
      runs: "worker",
      options: content,
      traits: { view },
      async run(input, { options, ctx }) {
        const { ContentDetector } = await import("./detectors.ts");
        const { segment } = await import("./segment.ts");
        return segment(input, new ContentDetector(view.width, view.height, options), ctx, options.refine);
      },
    }),
    provide("segment", {
      id: "adaptive",
      summary: "cuts where the change stands out from its neighbourhood; calmer with fast cameras",
      source: "PySceneDetect AdaptiveDetector 0.7",
      runs: "worker",
      options: adaptive,
      traits: { view },
      async run(input, { options, ctx }) {
        const { AdaptiveDetector } = await import("./detectors.ts");
        const { segment } = await import("./segment.ts");
        return segment(input, new AdaptiveDetector(view.width, view.height, options), ctx, options.refine);
      },
    }),
    provide("segment", {
      id: "fade",
      summary: "cuts at fades through black",
      source: "PySceneDetect ThresholdDetector 0.7",
      runs: "worker",
      options: fade,
      traits: { view },
      async run(input, { options, ctx }) {
        const { FadeDetector } = await import("./detectors.ts");
        const { segment } = await import("./segment.ts");
        return segment(input, new FadeDetector(options), ctx, undefined);
      },
    }),
  ],
});
