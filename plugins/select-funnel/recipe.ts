/** A funnel as data: stages from lax to strict; a clip of a stage has passed the rules of that stage and of all before it. */
import { z } from "zod";

const Id = z.string().regex(/^[a-z0-9][a-z0-9-]*$/, "lower-case letters, digits and -");
const why = z
  .string()
  .min(1)
  .meta({ description: "the reason that people are shown, and where the threshold comes from" });

/** A stored measure must lie between `min` and `max`. */
const Range = z.strictObject({
  id: Id,
  measure: z.string().meta({ description: "a score as <scorer>.<measure>, or caption.words" }),
  min: z.number().optional(),
  max: z.number().optional(),
  missing: z.enum(["pass", "drop"]).default("pass").meta({ description: "what happens to a clip without the measure" }),
  why,
});

/** No group may hold more than a share of the clips; the least of a group go. */
const Balance = z.strictObject({
  id: Id,
  balance: z.enum(["tag", "source"]),
  maxShare: z.number().positive().max(1),
  prefer: z.string().optional().meta({ description: "measure whose highest values stay" }),
  why,
});

export const Rule = z.union([Range, Balance]);
export type Rule = z.output<typeof Rule>;
export type RangeRule = z.output<typeof Range>;
export type BalanceRule = z.output<typeof Balance>;

export const Recipe = z
  .strictObject({
    name: z.string(),
    stages: z.array(z.strictObject({ id: Id, rules: z.array(Rule) })).min(1),
  })
  .refine(({ stages }) => new Set(stages.map(({ id }) => id)).size === stages.length, "two stages have the same id")
  .refine(
    ({ stages }) => stages.every(({ rules }) => new Set(rules.map(({ id }) => id)).size === rules.length),
    "two rules of a stage have the same id",
  );
export type Recipe = z.output<typeof Recipe>;
