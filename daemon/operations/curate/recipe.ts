/** Funnel recipes: the built-in ones of configs/curate by name, a person's own as JSON or YAML by path. */
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { extname, join, resolve } from "node:path";
import { z } from "zod";
import { WaverError } from "../../../plugins/index.ts";

const FOLDER = join(import.meta.dir, "../../../configs/curate");

export const CurateRecipe = z.strictObject({
  summary: z.string(),
  /** Shortest and longest clip, in seconds. */
  clip: z.strictObject({ minSeconds: z.number().positive(), maxSeconds: z.number().positive() }),
  /** Option `recipe` of the selectors that take one; they say what it may hold. */
  funnel: z.record(z.string(), z.unknown()),
  /** Their option `stage`, when the request names none. */
  stage: z.string().optional(),
});
export type CurateRecipe = z.output<typeof CurateRecipe>;

const isName = (recipe: string): boolean => /^[a-z0-9][a-z0-9-]*$/.test(recipe);

/** The file that a recipe comes from. */
export const recipeFile = (recipe: string): string => (isName(recipe) ? join(FOLDER, `${recipe}.ts`) : resolve(recipe));

export async function loadRecipe(recipe: string): Promise<CurateRecipe> {
  const file = recipeFile(recipe);
  if (!existsSync(file)) {
    const known = (await readdir(FOLDER)).filter((name) => name.endsWith(".ts")).map((name) => name.slice(0, -3));
    throw new WaverError("not_found", `there is no funnel recipe ${recipe}`, {
      hint: `known recipes: ${known.join(", ")}; or give the path of a JSON or YAML file`,
    });
  }
  const value = isName(recipe) ? ((await import(file)) as { default: unknown }).default : await parsed(file);
  const checked = CurateRecipe.safeParse(value);
  if (checked.success) return checked.data;
  const issue = checked.error.issues[0];
  throw new WaverError(
    "invalid_input",
    `the recipe ${recipe} is wrong at ${issue?.path.join(".") || "its top"}: ${issue?.message}`,
    { hint: "compare it with configs/curate/nano.ts" },
  );
}

/** Only data is read from a person's path: a recipe in TypeScript would run in this process. */
async function parsed(file: string): Promise<unknown> {
  const text = await Bun.file(file).text();
  try {
    if (extname(file) === ".json") return JSON.parse(text);
    if ([".yaml", ".yml"].includes(extname(file))) return Bun.YAML.parse(text);
  } catch (cause) {
    throw new WaverError("invalid_input", "the recipe cannot be parsed", { cause, hint: "check its JSON or YAML" });
  }
  throw new WaverError("unsupported_media_type", "a recipe is a .json, .yaml or .yml file");
}

const Stages = z.array(z.object({ id: z.string(), rules: z.array(z.object({ id: z.string() })) }));

/** Names of the rules in the order of a funnel's stages, where the recipe has them: for pictures of the funnel. */
export const ruleOrder = ({ funnel }: { readonly funnel: CurateRecipe["funnel"] }): string[] => ruleNames(funnel);

function ruleNames(funnel: CurateRecipe["funnel"]): string[] {
  const stages = Stages.safeParse(funnel["stages"]);
  return stages.success ? stages.data.flatMap(({ id, rules }) => rules.map((rule) => `${id}/${rule.id}`)) : [];
}

const Changeable = z.looseObject({
  stages: z.array(z.looseObject({ id: z.string(), rules: z.array(z.looseObject({ id: z.string() })) })),
});

/** A funnel with other thresholds: each change is `stage/rule.field=number`. */
export function withChanges(funnel: CurateRecipe["funnel"], changes: readonly string[]): CurateRecipe["funnel"] {
  if (changes.length === 0) return funnel;
  const changed = Changeable.parse(structuredClone(funnel));
  for (const change of changes) {
    const [place, value] = change.split("=") as [string, string];
    const [stage, rest] = place.split("/") as [string, string];
    const at = rest.lastIndexOf(".");
    const rule = changed.stages.find(({ id }) => id === stage)?.rules.find(({ id }) => id === rest.slice(0, at));
    if (rule === undefined) {
      throw new WaverError("not_found", `the funnel has no rule ${stage}/${rest.slice(0, at)}`, {
        hint: `its rules: ${ruleNames(funnel).join(", ")}`,
      });
    }
    rule[rest.slice(at + 1)] = Number(value);
  }
  return changed;
}
