/** Models on this machine: fetched from the hub by a recipe's name or by repository, listed, shown, removed. */
import { existsSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { defineOperation, WaverError, z } from "../../plugins/index.ts";
import { loadConfig } from "../config.ts";
import { ModelName, ModelRecord, modelFolder, modelsFolder, modelsHere, readRecord } from "../models/place.ts";
import { pull as pulled } from "../models/pull.ts";
import { recipes, sourceOf } from "../models/recipe.ts";
import { didYouMean } from "../plugins/nearest.ts";
import { daemonOf } from "./context.ts";

const pull = defineOperation({
  kind: "job",
  summary: "fetches a model from the hub; what was killed goes on where it stopped",
  runs: "worker",
  input: z.strictObject({
    model: z.string().min(1).meta({
      description: "a name that `waver models list` offers, or hf:org/name, hf:org/name@revision",
      positional: 0,
    }),
    name: ModelName.optional().meta({ description: "what to call it here" }),
    include: z.array(z.string()).default([]).meta({
      description: "only files that fit these patterns; else all but weights in formats that run code",
    }),
    parallel: z.int().min(1).max(16).default(4).meta({ description: "parts of a file fetched at once" }),
    endpoint: z.url().optional().meta({ description: "the hub; HF_ENDPOINT or the public one when absent" }),
  }),
  output: z.object({
    name: ModelName,
    path: z.string(),
    source: z.string(),
    revision: z.string(),
    numFiles: z.int(),
    bytes: z.int(),
    /** True when this commit was here already. */
    present: z.boolean(),
  }),
  slots: {},
  examples: ["waver pull hf:org/name", "waver pull hf:org/name@v1.0 --name mine"],
  async run({ model, name, include, parallel, endpoint }, _, ctx) {
    const { home, hub } = await loadConfig();
    const source = sourceOf(model);
    const options = { ...hub, ...(endpoint === undefined ? {} : { endpoint }) };
    // A token is for the hub it was made for.
    if (endpoint !== undefined && new URL(endpoint).origin !== new URL(hub.endpoint).origin) delete options.token;
    const { files, ...found } = await pulled(
      home,
      options,
      { ...source, name: name ?? source.name, include, parallel },
      ctx,
    );
    const { path, revision, bytes, present } = found;
    return { name: found.name, path, source: found.source, revision, numFiles: files.length, bytes, present };
  },
});

const list = defineOperation({
  kind: "query",
  summary: "lists the models on this machine, and those that can be pulled by name",
  runs: "daemon",
  input: z.strictObject({}),
  output: z.object({
    models: z.array(
      z.object({ name: z.string(), bytes: z.int(), source: z.string(), revision: z.string(), path: z.string() }),
    ),
    available: z.array(z.object({ name: z.string(), bytes: z.int(), licence: z.string(), summary: z.string() })),
  }),
  slots: {},
  examples: ["waver models list"],
  run: async (_, __, ctx) => {
    const { home } = daemonOf(ctx).config;
    const here = modelsHere(home);
    const models = here.map(({ name, bytes, source, revision }) => ({
      ...{ name, bytes, source, revision: revision.slice(0, 12), path: modelFolder(home, name) },
    }));
    const available = [...recipes()]
      .filter(([name]) => !here.some((model) => model.name === name))
      .map(([name, { bytes, licence, summary }]) => ({ name, bytes, licence, summary }));
    return { models, available };
  },
});

const Name = z.strictObject({
  name: ModelName.meta({ description: "a name from `waver models list`", positional: 0 }),
});

const show = defineOperation({
  kind: "query",
  summary: "shows one model: where it came from, its files and their digests",
  runs: "daemon",
  input: Name,
  output: ModelRecord.extend({ path: z.string() }),
  slots: {},
  examples: ["waver models show NAME"],
  run: async ({ name }, _, ctx) => {
    const { home } = daemonOf(ctx).config;
    return { ...known(home, name), path: modelFolder(home, name) };
  },
});

const remove = defineOperation({
  kind: "query",
  summary: "removes a model from this machine",
  runs: "daemon",
  input: Name,
  output: z.object({ removed: z.string(), bytes: z.int() }),
  slots: {},
  examples: ["waver models rm NAME"],
  run: async ({ name }, _, ctx) => {
    const { home } = daemonOf(ctx).config;
    const { bytes } = known(home, name);
    // Out of the way at once, then off the disk: what is half removed is no model.
    const trash = join(modelsFolder(home), `.trash-${crypto.randomUUID()}`);
    if (existsSync(modelFolder(home, name))) await rename(modelFolder(home, name), trash);
    await rm(join(modelsFolder(home), `${name}.json`), { force: true });
    await rm(trash, { recursive: true, force: true });
    return { removed: name, bytes };
  },
});

export const operations = { pull, "models-list": list, "models-show": show, "models-rm": remove };

function known(home: string, name: string): ModelRecord {
  const record = readRecord(home, name);
  if (record !== null) return record;
  throw new WaverError("not_found", `there is no model ${name} here`, {
    hint: didYouMean(
      name,
      modelsHere(home).map((each) => each.name),
    ),
  });
}
