/** What a report is made from: plain data with paths of clips. Relative paths start at the description's own folder. */
import { z } from "zod";

const Count = z.int().nonnegative();
const Path = z.string().min(1);

/** A clip on disk, or a span of a longer file. */
export const ShownClip = z.strictObject({
  file: Path,
  start: z.number().nonnegative().optional(),
  end: z.number().positive().optional(),
  caption: z.string().default(""),
  /** Said beside the caption: where it comes from, its licence. */
  note: z.string().optional(),
});
export type ShownClip = z.output<typeof ShownClip>;

/** A generated clip and the training clip that its features are nearest to. */
export const Sample = z.strictObject({
  file: Path,
  seed: z.int(),
  nearest: z
    .strictObject({ caption: z.string(), isPrompted: z.boolean(), similarity: z.number(), clip: ShownClip.optional() })
    .optional(),
  refined: Path.optional(),
  note: z.string().optional(),
});
export type Sample = z.output<typeof Sample>;

export const Measure = z.strictObject({
  name: z.string(),
  /** One sentence: what is counted, and with which substitute. */
  meaning: z.string(),
  value: z.number().nullable(),
  unit: z.string().default(""),
  /** What pure chance gives. */
  chance: z.number().optional(),
  /** The figure that must be reached, in words ("at least 9"). */
  required: z.string().optional(),
  goal: z.string().optional(),
  /** null: nothing was required. */
  isReached: z.boolean().nullable().default(null),
  /** Why there is no value, or what was tried when it was not reached. */
  remark: z.string().optional(),
});
export type Measure = z.output<typeof Measure>;

export const Curve = z.strictObject({
  name: z.string(),
  summary: z.string(),
  steps: z.array(z.number()),
  losses: z.array(z.number()),
  numSteps: Count,
});
export type Curve = z.output<typeof Curve>;

export const Funnel = z.strictObject({
  unit: z.string().default("clips"),
  numIn: Count,
  rules: z.array(z.strictObject({ rule: z.string(), dropped: Count, kept: Count, why: z.string().optional() })),
  /** Dropped ones by name, with the figure that decided. */
  dropped: z.array(z.strictObject({ name: z.string(), rule: z.string(), why: z.string() })).default([]),
});
export type Funnel = z.output<typeof Funnel>;

export const Stage = z.strictObject({
  name: z.string(),
  operation: z.string(),
  seconds: z.number().nonnegative(),
  peakBytes: z.number().nonnegative(),
  isReused: z.boolean(),
});
export type Stage = z.output<typeof Stage>;

export const Description = z.strictObject({
  title: z.string(),
  createdAt: z.string(),
  verdict: z.strictObject({
    tone: z.enum(["good", "mixed", "bad"]),
    headline: z.string(),
    sentences: z.array(z.string()),
  }),
  figures: z.array(z.strictObject({ label: z.string(), value: z.string(), note: z.string().optional() })).default([]),
  sources: z.array(ShownClip).default([]),
  funnel: Funnel.optional(),
  curves: z.array(Curve).default([]),
  textToVideo: z
    .array(z.strictObject({ prompt: z.string(), training: ShownClip.optional(), samples: z.array(Sample) }))
    .default([]),
  textToImage: z.array(z.strictObject({ prompt: z.string(), samples: z.array(Sample) })).default([]),
  imageToVideo: z
    .array(
      z.strictObject({
        prompt: z.string(),
        image: Path,
        reconstruction: Path.optional(),
        file: Path,
        seed: z.int(),
        firstFramePsnr: z.number().optional(),
      }),
    )
    .default([]),
  /** Clips kept out of training: low resolution, refined, true high resolution. */
  heldOut: z
    .array(
      z.strictObject({
        caption: z.string(),
        low: Path,
        refined: Path,
        high: Path,
        distanceLow: z.number().optional(),
        distanceRefined: z.number().optional(),
      }),
    )
    .default([]),
  measures: z.array(Measure).default([]),
  /** Artefact whose ancestry is drawn. */
  best: z
    .strictObject({
      digest: z.string(),
      file: Path,
      caption: z.string(),
      /** What artefacts without a record of their own are called, by digest: source files. */
      names: z.record(z.string(), z.string()).default({}),
    })
    .optional(),
  stages: z.array(Stage).default([]),
  totalSeconds: z.number().nonnegative().optional(),
  versions: z.record(z.string(), z.string()).default({}),
  /** What did not work, and what was not run: shown, never hidden. */
  shortcomings: z.array(z.string()).default([]),
});
export type Description = z.output<typeof Description>;
