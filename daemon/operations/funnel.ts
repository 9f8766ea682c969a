/** What a set would be with other thresholds, from stored scores alone: no frame is decoded and no GPU is needed. */
import { z } from "zod";
import {
  type ClipRow,
  type Context,
  Digest,
  defineOperation,
  type Pick,
  readTable,
  WaverError,
} from "../../plugins/index.ts";
import { withGiven } from "./curate/given.ts";
import { type CurateRecipe, loadRecipe, ruleOrder, withChanges } from "./curate/recipe.ts";
import { counts, select } from "./curate/select.ts";
import { findArtefact, newest } from "./lineage/artefact.ts";

/** Clips named in an answer. */
const EXAMPLES = 20;

const input = z.strictObject({
  table: z
    .string()
    .optional()
    .meta({ description: "clip table by digest, name or path; the newest when absent", positional: 0 }),
  recipe: z.string().optional().meta({
    description:
      "funnel recipe: a name in configs/curate or the path of a JSON or YAML file; the one that the set was made with when absent",
  }),
  stage: z.string().optional().meta({ description: "stage that the set would be for" }),
  change: z
    .array(
      z
        .string()
        .regex(/^[a-z0-9-]+\/[a-z0-9-]+\.(min|max|maxShare)=-?\d+(\.\d+)?$/, "a change looks like 480p/motion.min=0.5"),
    )
    .default([])
    .meta({ description: "thresholds to try in place of the recipe's: STAGE/RULE.min=NUMBER" }),
});

const Example = z.object({ id: Digest, path: z.string(), start: z.number(), reason: z.string().nullable() });
const output = z.object({
  table: Digest,
  clips: z.int(),
  kept: z.int(),
  /** Clips kept by the set as it was made. */
  before: z.int(),
  dropped: z.array(z.object({ rule: z.string(), clips: z.int(), kept: z.int() })),
  gained: z.int(),
  lost: z.int(),
  /** Some of the clips that would come or go, with the reason they are out. */
  examples: z.object({ gained: z.array(Example), lost: z.array(Example) }),
});

export const funnel = defineOperation({
  kind: "query",
  summary: "tries a funnel with other thresholds on stored scores",
  runs: "worker",
  input,
  output,
  slots: {
    selectors: {
      hook: "select",
      many: true,
      summary: "mark what stays out, in order",
      default: [{ id: "funnel" }, { id: "dedup" }],
    },
  },
  examples: ["waver funnel mine --recipe waver --stage 480p", "waver funnel --change nano/still.max=0.5"],
  async run({ table, recipe: name, stage, change }, { selectors }, ctx) {
    const digest = await tableOf(table, ctx);
    const recipe = name === undefined ? await usedRecipe(digest, ctx) : await loadRecipe(name);
    const stored = await readTable({ files: [await ctx.store.path(digest)] });
    const target = stage ?? recipe.stage;
    const asked = {
      recipe: withChanges(recipe.funnel, change),
      ...(target === undefined ? {} : { stage: target }),
    };
    const picks = withGiven("select", selectors as readonly Pick[], asked, ["recipe"], ctx);
    const rows = (await select(stored.map(unmarked), picks, ctx)).map(captioned);
    const was = new Map(stored.map((row) => [keyOf(row), row]));
    const gained = rows.filter((row) => row.dropped === null && was.get(keyOf(row))?.dropped !== null);
    const lost = rows.filter((row) => row.dropped !== null && was.get(keyOf(row))?.dropped === null);
    return {
      table: digest,
      clips: rows.length,
      kept: rows.filter((row) => row.dropped === null).length,
      before: stored.filter((row) => row.dropped === null).length,
      dropped: counts(rows, ["curate/error", ...ruleOrder(recipe)]),
      gained: gained.length,
      lost: lost.length,
      // What comes in is told with the reason that it was out, what goes out with the new one.
      examples: {
        gained: gained.slice(0, EXAMPLES).map((row) => example(was.get(keyOf(row)) ?? row)),
        lost: lost.slice(0, EXAMPLES).map(example),
      },
    };
  },
});

async function tableOf(name: string | undefined, ctx: Context): Promise<Digest> {
  if (name === undefined) return (await newest("clip-table", ctx)).digest;
  const { digest, lineage } = await findArtefact(name, ctx, "clip-table");
  if (lineage !== null && lineage.kind !== "clip-table")
    throw new WaverError("invalid_input", `${name} is a ${lineage.kind}, not a clip table`, {
      hint: "the table is an input of the set: waver trace",
    });
  return digest;
}

type FunnelOf = { readonly funnel: CurateRecipe["funnel"]; readonly stage?: string | undefined };

const Used = z.object({
  selectors: z.array(
    z.looseObject({ recipe: z.record(z.string(), z.unknown()).optional(), stage: z.string().optional() }),
  ),
});

/** The funnel that a table was made with, as its record tells. */
async function usedRecipe(digest: Digest, ctx: Context): Promise<FunnelOf> {
  const { data } = Used.safeParse((await ctx.store.lineage(digest))?.options);
  const used = data?.selectors.find(({ recipe }) => recipe !== undefined);
  if (used?.recipe === undefined) return loadRecipe("nano");
  return { funnel: used.recipe, ...(used.stage === undefined ? {} : { stage: used.stage }) };
}

const keyOf = (row: ClipRow): string => `${row.id} ${row.path}`;

/** As before the selectors: a clip that could not be measured stays out. */
const unmarked = (row: ClipRow): ClipRow =>
  row.dropped === "curate/error" ? row : { ...row, dropped: null, reason: null };

/** Curation's own last rule. A vision model may still find words for a clip that it was never asked about. */
const captioned = (row: ClipRow): ClipRow =>
  row.dropped === null && row.caption === null
    ? { ...row, dropped: "curate/caption", reason: "it has no caption so far" }
    : row;

const example = ({ id, path, start, reason }: ClipRow): z.output<typeof Example> => ({ id, path, start, reason });
