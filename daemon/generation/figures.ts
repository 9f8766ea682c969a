/** What a plan says of a `generate` request. */
import { z } from "zod";
import { RanksPlan } from "./sharing.ts";

const count = z.number().nonnegative();

/** A part of the work. All figures are of the whole request. */
export const StagePlan = z.object({
  stage: z.enum(["text", "image", "known frames", "denoise", "decode"]),
  /** The part of the model that does it. */
  component: z.string(),
  /** Passes through the network. */
  passes: z.int().nonnegative(),
  flops: count,
  seconds: count,
  /** Most that the stage takes beside weights. */
  peakBytes: count,
  /** As they are kept on the device: by blocks, in 8 bits, in a rank's part, with a CPU's copies in another layout, with adapters. */
  weightBytes: count,
  /** Weights of blocks that come from elsewhere for their turns, all passes together. */
  readBytes: count.default(0),
});
export type StagePlan = z.output<typeof StagePlan>;

export const Plan = z.object({
  device: z.string(),
  width: z.int(),
  height: z.int(),
  numFrames: z.int(),
  numSteps: z.int(),
  samples: z.int(),
  flops: count,
  seconds: count,
  /** Weights of everything that is loaded, and the largest stage on top. */
  peakBytes: count,
  /** The same when the encoders of text and pictures have left before the denoiser comes. */
  leastBytes: count,
  /** Which of the two it will be: whether the memory budget holds the weights of everything at once. */
  encodersStay: z.boolean().default(true),
  /** Components whose blocks' weights are on the device around their turns only; `weightBytes` counts two blocks of them. */
  offload: z.array(z.string()).default([]),
  /** Side of the tiles in which frames are coded; null: whole. */
  tileSize: z.int().positive().nullable().default(null),
  /** Of several ranks each, and what they send. The figures above are those of the first, which has codec and encoders too. */
  ranks: RanksPlan.nullable().default(null),
  /** What the device was measured to do, from which `seconds` follow; on a CPU in processor time. */
  rates: z.record(z.string(), z.number()).default({}),
  stages: z.array(StagePlan),
});
export type Plan = z.output<typeof Plan>;
