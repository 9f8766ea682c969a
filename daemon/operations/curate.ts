/**
 * Raw video -> a training set (Waver 3.1, 3.3, 3.5): sources are probed and cut into shots, shots become clips, clips are
 * measured and captioned, selectors mark what stays out and why, and the table and the set are published.
 *
 * Every step of it is a unit of one file or one clip: a killed job goes on at the last clip. A file that cannot be used
 * is a line in the report, not the end of the job.
 */
import { basename } from "node:path";
import { z } from "zod";
import {
  type ClipRow,
  type Context,
  Digest,
  defineOperation,
  type Pick,
  type Picks,
  WaverError,
} from "../../plugins/index.ts";
import { ErrorBodySchema } from "../wire.ts";
import { captionKept, type Job, measureAll } from "./curate/clips.ts";
import { cutSource } from "./curate/cut.ts";
import { openEmbedder } from "./curate/embedder.ts";
import { passable } from "./curate/failure.ts";
import { withGiven } from "./curate/given.ts";
import { probeAll } from "./curate/probe.ts";
import { publish } from "./curate/publish.ts";
import { loadRecipe, recipeFile, ruleOrder } from "./curate/recipe.ts";
import { counts, type RuleCount, select } from "./curate/select.ts";
import type { ClipRule } from "./curate/shots.ts";
import { readsOf } from "./curate/sources.ts";

const path = (description: string) => z.string().min(1).meta({ description, format: "path" });

const input = z.strictObject({
  sources: z.array(path("a video, or a folder with videos")).min(1),
  captions: path("caption file, for the captioners that read one").optional(),
  recipe: z.string().min(1).default("nano").meta({
    description:
      "funnel recipe: a name in configs/curate or the path of a JSON or YAML file; the lengths of clips come from it, and the rules of selectors that take one",
  }),
  stage: z
    .string()
    .optional()
    .meta({ description: "stage of the funnel that the set is for; the recipe's last when absent" }),
  tag: z
    .string()
    .optional()
    .meta({ description: "where the videos come from; the name of each video's folder when absent" }),
  set: z.strictObject({
    name: z.string().min(1),
    output: path("folder for the set; it stays in the store alone when absent").optional(),
  }),
  minSeconds: z.number().positive().optional().meta({ description: "shortest clip; the recipe's when absent" }),
  maxSeconds: z.number().positive().optional().meta({ description: "longest clip; the recipe's when absent" }),
});
type Input = z.output<typeof input>;

const artefact = z.object({ path: z.string(), digest: Digest });
const output = z.object({
  /** Shots found, and those of them that are shorter than a clip. */
  shots: z.int(),
  short: z.int(),
  clips: z.int(),
  kept: z.int(),
  /** Seconds of the kept clips. */
  seconds: z.number(),
  dropped: z.array(z.object({ rule: z.string(), clips: z.int(), kept: z.int() })),
  /** What a person should know of the set. */
  warnings: z.array(z.string()).default([]),
  set: artefact,
  table: artefact,
  /** Provider whose features are in the table, or null. */
  embeddedBy: z.string().nullable(),
  sources: z.array(
    z.object({ path: z.string(), digest: Digest.nullable(), clips: z.int(), error: ErrorBodySchema.optional() }),
  ),
});
export type CurateOutput = z.output<typeof output>;

export const curate = defineOperation({
  kind: "job",
  summary: "makes a training set of raw video: shots, clips, scores, captions, funnel",
  runs: "worker",
  input,
  output,
  slots: {
    segment: { hook: "segment", summary: "cuts sources into shots", default: { id: "content" } },
    scorers: {
      hook: "score",
      many: true,
      summary: "measure the clips",
      default: [{ id: "basic" }, { id: "visual" }, { id: "motion" }],
    },
    captioners: {
      hook: "caption",
      many: true,
      summary: "asked in order until one has a caption",
      default: [{ id: "sidecar" }, { id: "filename" }],
    },
    embed: {
      hook: "embed",
      optional: true,
      summary: "features for dedup and for cutting long shots; the richest that can be loaded when absent",
    },
    selectors: {
      hook: "select",
      many: true,
      summary: "mark what stays out, in order",
      default: [{ id: "funnel" }, { id: "dedup" }],
    },
  },
  reads: ({ sources, captions, recipe }) => readsOf(sources, [captions, recipeFile(recipe)]),
  writes: ({ set, table }) => [set.path, table.path],
  examples: [
    "waver curate --sources videos --set.name mine",
    "waver curate --sources videos --captions captions.csv --recipe waver --stage 480p --set.name mine",
  ],
  run: makeSet,
});

async function makeSet(request: Input, picks: Picks, ctx: Context): Promise<CurateOutput> {
  const recipe = await loadRecipe(request.recipe);
  const rule: ClipRule = {
    minSeconds: request.minSeconds ?? recipe.clip.minSeconds,
    maxSeconds: request.maxSeconds ?? recipe.clip.maxSeconds,
  };
  if (rule.maxSeconds < rule.minSeconds)
    throw new WaverError(
      "invalid_input",
      `clips cannot be at least ${rule.minSeconds} s and at most ${rule.maxSeconds} s long`,
    );
  const chosen = {
    segment: picks["segment"] as Pick,
    scorers: picks["scorers"] as readonly Pick[],
    captioners: withGiven(
      "caption",
      picks["captioners"] as readonly Pick[],
      { captions: request.captions },
      ["captions"],
      ctx,
    ),
    // The recipe counts without a selector too: the lengths of clips are its.
    selectors: withGiven(
      "select",
      picks["selectors"] as readonly Pick[],
      { recipe: recipe.funnel, stage: request.stage ?? recipe.stage },
      request.stage === undefined ? [] : ["stage"],
      ctx,
    ),
    embed: picks["embed"] as Pick | undefined,
  };

  const found = await probeAll(request, ctx);
  const embedder = await openEmbedder(chosen.embed, ctx);
  const report = new Map<string, { clips: number; error?: WaverError }>();
  const jobs: Job[] = [];
  let shots = 0;
  let short = 0;
  for (const [index, { path: file, source, error }] of found.entries()) {
    const entry: { clips: number; error?: WaverError } = { clips: 0, ...(error === undefined ? {} : { error }) };
    report.set(file, entry);
    if (source !== null) {
      try {
        const cut = await cutSource(source, chosen.segment, rule, embedder, ctx);
        jobs.push(...cut.spans.map((span) => ({ source, span })));
        entry.clips = cut.spans.length;
        shots += cut.shots;
        short += cut.short;
      } catch (cause) {
        entry.error = passable(cause);
      }
    }
    ctx.progress(index + 1, found.length, "sources", { file: basename(file) });
    await ctx.breathe();
  }
  const errors = [...report.values()].flatMap((entry) => (entry.error === undefined ? [] : [entry.error]));
  if (jobs.length === 0)
    throw (
      errors[0] ??
      new WaverError("media_too_short", `no shot lasts from ${rule.minSeconds} to ${rule.maxSeconds} s`, {
        hint: "allow shorter clips: minSeconds, or --min-seconds",
      })
    );

  const rows = await measureAll(jobs, chosen, embedder, ctx);
  const selected = await captionKept(await select(rows, chosen.selectors, ctx), jobs, chosen.captioners, ctx);
  const kept = selected.filter((row) => row.dropped === null);
  const options = {
    ...request,
    clip: rule,
    segment: chosen.segment,
    scorers: chosen.scorers,
    captioners: chosen.captioners,
    selectors: chosen.selectors,
    embed: embedder?.id ?? null,
  };
  const digests = [...new Set(found.flatMap(({ source }) => (source === null ? [] : [source.id])))];
  const published = await publish(
    selected,
    { name: request.set.name, output: request.set.output, sources: digests, options },
    ctx,
  );
  const dropped = counts(selected, ["curate/error", ...ruleOrder(recipe)]);
  const warnings = kept.length === 0 ? [nothingKept(request.set.name, selected, dropped)] : [];
  for (const reason of warnings) ctx.log("nothing_kept", { level: "warn", reason });
  return {
    shots,
    short,
    clips: selected.length,
    kept: kept.length,
    seconds: kept.reduce((sum, row) => sum + row.end - row.start, 0),
    dropped,
    warnings,
    ...published,
    embeddedBy: embedder?.id ?? null,
    sources: found.map(({ path: file, source }) => {
      const { clips, error } = report.get(file) as { clips: number; error?: WaverError };
      return {
        path: file,
        digest: source?.id ?? null,
        clips,
        ...(error === undefined ? {} : { error: error.toBody() }),
      };
    }),
  };
}

/** A set without a clip, with the rule that left most of them out and what it said of one. */
function nothingKept(name: string, rows: readonly ClipRow[], dropped: readonly RuleCount[]): string {
  const [most] = dropped.toSorted((a, b) => b.clips - a.clips);
  const example = rows.find((row) => row.dropped === most?.rule)?.reason ?? "";
  const why = most === undefined ? "" : `: ${most.rule} left out ${most.clips}${example === "" ? "" : ` (${example})`}`;
  return `the set ${name} is empty, for none of ${rows.length} clips was kept${why}; \`waver funnel ${name}\` tries other thresholds without decoding anything again`;
}
