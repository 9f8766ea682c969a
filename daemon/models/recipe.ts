/** Where a model comes from: a recipe of configs/models by its name, or `hf:org/name[@revision]`. */
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { WaverError } from "../../plugins/errors.ts";
import { didYouMean } from "../plugins/nearest.ts";
import { ModelName } from "./place.ts";

const Repository = z
  .string()
  .regex(/^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95}$/, "a repository is written org/name");
const Revision = z.string().regex(/^[A-Za-z0-9][\w./-]{0,127}$/, "a branch, a tag or a commit");
const Patterns = z.array(z.string().min(1).max(256)).max(64);

export const Recipe = z.strictObject({
  summary: z.string(),
  repository: Repository,
  revision: Revision.default("main"),
  licence: z.string(),
  /** Longer names that it also goes by when it is fetched. */
  also: z.array(ModelName).default([]),
  /** Bytes to download, about: what a person is told before. */
  bytes: z.int().positive(),
  /** Files to leave out, as globs. */
  exclude: Patterns.default([]),
});
export type Recipe = z.output<typeof Recipe>;

export interface Source {
  readonly name: string;
  readonly repository: string;
  readonly revision: string;
  readonly exclude: readonly string[];
}

const FOLDER = join(import.meta.dir, "../../configs/models");

export function recipes(folder = FOLDER): ReadonlyMap<string, Recipe> {
  const found = new Map<string, Recipe>();
  for (const file of readdirSync(folder)
    .filter((each) => each.endsWith(".json"))
    .sort())
    found.set(basename(file, ".json"), Recipe.parse(JSON.parse(readFileSync(join(folder, file), "utf8"))));
  return found;
}

export function sourceOf(given: string): Source {
  const hub = /^hf:([^@]*)(?:@(.*))?$/.exec(given);
  if (hub !== null) {
    const [repository, revision] = [Repository.safeParse(hub[1]), Revision.safeParse(hub[2] ?? "main")];
    if (!repository.success || !revision.success || (hub[2] ?? "").includes(".."))
      throw new WaverError("invalid_input", `${given} is not written as hf:org/name or hf:org/name@revision`);
    const name = (repository.data.split("/")[1] as string).toLowerCase();
    return { name: ModelName.parse(name), repository: repository.data, revision: revision.data, exclude: [] };
  }
  const known = recipes();
  const [name, recipe] = [...known].find(([name, { also }]) => name === given || also.includes(given)) ?? [];
  if (name === undefined || recipe === undefined)
    throw new WaverError("not_found", `there is no recipe for a model named ${given}`, {
      hint: `${didYouMean(given, [...known.keys()])}; any other repository: waver pull hf:org/name`,
    });
  const { repository, revision, exclude } = recipe;
  return { name, repository, revision, exclude };
}
