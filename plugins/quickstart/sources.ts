/** Child job: the quick start's own input. Renders the scenes, lays real shots beside them, writes the captions' file. */
import { defineOperation, z } from "../index.ts";

export const Shot = z.object({ file: z.string(), start: z.number(), end: z.number(), caption: z.string() });
export type Shot = z.output<typeof Shot>;

/** A clip that no training run sees: as it should look, and as the refiner is given it. */
export const HeldOut = z.object({ id: z.string(), caption: z.string(), high: z.string(), low: z.string() });
export type HeldOut = z.output<typeof HeldOut>;

export const quickstartSources = defineOperation({
  kind: "job",
  summary: "quick start: renders captioned scenes, lays real shots beside them, and keeps some clips out of training",
  runs: "worker",
  input: z.strictObject({
    output: z.string().meta({ format: "path" }),
    seed: z.int().nonnegative(),
    scenes: z.int().positive().optional().meta({ description: "scenes to render; all when absent" }),
    real: z.array(Shot).default([]).meta({ description: "shots of real video, fetched before" }),
    heldOut: z.int().nonnegative().meta({ description: "clips to keep out of training" }),
    high: z.strictObject({
      width: z.int().positive(),
      height: z.int().positive(),
      frames: z.int().positive(),
      fps: z.number().positive(),
    }),
    scale: z.int().positive(),
  }),
  output: z.object({ videos: z.string(), captions: z.string(), shots: z.array(Shot), heldOut: z.array(HeldOut) }),
  slots: {},
  reads: ({ real }) => [...new Set(real.map(({ file }) => file))],
  writes: ({ captions, shots, heldOut }) => [
    captions,
    ...shots.map(({ file }) => file),
    ...heldOut.flatMap(({ high, low }) => [high, low]),
  ],
  async run(input, _picks, ctx) {
    const { prepareSources } = await import("./prepare.ts");
    return prepareSources(input, ctx);
  },
});
