/**
 * The pipeline a training starts from, laid out in the job's own folder: what the parent has, what the request picks
 * instead, and fresh weights where a pick brings a configuration. Whatever is trained is loaded from there, so that no
 * other job shares its weights.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import {
  type Codec,
  type Context,
  type Denoiser,
  type Pick,
  type Picks,
  type TextEncoder,
  WaverError,
} from "../../../plugins/index.ts";
import { classOf, copyComponent, entryOf, type Index, providerOf, readIndex, writeIndex } from "./pipeline.ts";
import type { TrainInput } from "./recipe.ts";
import { localPath } from "./set.ts";

export interface Components {
  /** A whole pipeline, before training. */
  readonly folder: string;
  readonly denoiser: Denoiser;
  readonly codec: Codec;
  readonly text: TextEncoder;
  readonly text2?: TextEncoder;
}

export async function assemble(recipe: TrainInput, picks: Picks, ctx: Context): Promise<Components> {
  const { folder } = await ctx.unit("start", z.object({ folder: z.string() }), async () => ({
    folder: await layOut(recipe, picks, ctx),
  }));
  const index = await readIndex(folder);
  const load = async (hook: "family" | "codec" | "encodeText", slot: string, component: string): Promise<unknown> => {
    const name = classOf(index, component);
    if (name === null)
      throw new WaverError("needs_unmet", `the training has no ${component}`, {
        hint: `give a model that has one, or pick a provider for ${slot}`,
      });
    const use = (await ctx.use(hook, pickOf(picks, slot)?.id ?? providerOf(hook, name, ctx), {
      path: join(folder, component),
    })) as (input: object) => Promise<unknown>;
    return use({});
  };
  const codec = (await load("codec", "codec", "vae")) as Codec;
  // It was loaded for this job alone. Latents are made once and used in every step: bf16 weights would round them first.
  codec.module.to({ dtype: "float32" });
  return {
    folder,
    codec,
    denoiser: (await load("family", "family", recipe.component)) as Denoiser,
    text: (await load("encodeText", "encodeText", "text_encoder")) as TextEncoder,
    ...(classOf(index, "text_encoder_2") === null
      ? {}
      : { text2: (await load("encodeText", "encodeText2", "text_encoder_2")) as TextEncoder }),
  };
}

async function layOut(recipe: TrainInput, picks: Picks, ctx: Context): Promise<string> {
  const folder = join(ctx.workDir, "start");
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  const parent = recipe.model === null ? null : await localPath(recipe.model, ctx);
  const index: Index = parent === null ? { _class_name: "WaverPipeline" } : await readIndex(parent);
  if (parent !== null)
    for (const name of componentsOf(index)) await copyComponent(join(parent, name), join(folder, name));

  await place(folder, "vae", pickOf(picks, "codec"), async (id, options) => (await ctx.use("codec", id, options))({}));
  for (const [slot, component, tokenizer] of [
    ["encodeText", "text_encoder", "tokenizer"],
    ["encodeText2", "text_encoder_2", "tokenizer_2"],
  ] as const) {
    const pick = pickOf(picks, slot);
    await place(folder, component, pick, async (id, options) => (await ctx.use("encodeText", id, options))({}));
    if (typeof pick?.["tokenizer"] === "string") await replace(pick["tokenizer"], join(folder, tokenizer));
  }
  const family = pickOf(picks, "family");
  // The refiner begins as the generator it refines (Waver 4.1); so does any network that only reads its weights otherwise.
  const ancestor = [recipe.component, "transformer"].find((name) => parent !== null && existsSync(join(parent, name)));
  if (parent !== null && ancestor !== undefined && family?.["config"] !== undefined)
    await inherit(join(parent, ancestor), join(folder, recipe.component), family["config"] as object);
  else await place(folder, recipe.component, family, async (id, options) => (await ctx.use("family", id, options))({}));
  const sample = pickOf(picks, "sample");
  if (recipe.shift !== null || !existsSync(join(folder, "scheduler"))) {
    const traits = ctx.providers("sample").find(({ id }) => id === sample?.id)?.traits;
    await mkdir(join(folder, "scheduler"), { recursive: true });
    await Bun.write(
      join(folder, "scheduler", "scheduler_config.json"),
      `${JSON.stringify({ _class_name: traits?.classes[0], shift: recipe.shift ?? 1 }, null, 2)}\n`,
    );
  }
  const entries = await Promise.all(
    componentsOf(Object.fromEntries((await readdir(folder)).map((name) => [name, []]))).map(
      async (name) => [name, await entryOf(join(folder, name))] as const,
    ),
  );
  await writeIndex(folder, { ...index, ...Object.fromEntries(entries) });
  return folder;
}

/** Names in an index that are components: those that do not begin with an underscore. */
const componentsOf = (index: Readonly<Record<string, unknown>>): string[] =>
  Object.keys(index).filter((name) => !name.startsWith("_") && Array.isArray(index[name]));

const pickOf = (picks: Picks, slot: string): Pick | undefined => {
  const pick = picks[slot];
  return Array.isArray(pick) ? (pick[0] as Pick | undefined) : (pick as Pick | undefined);
};

/** Puts what a pick names into the pipeline: a folder as it is, or fresh weights saved. */
async function place(
  folder: string,
  component: string,
  pick: Pick | undefined,
  make: (id: string, options: Record<string, unknown>) => Promise<{ save?(folder: string): Promise<void> }>,
): Promise<void> {
  if (pick === undefined) return;
  const { id, ...options } = pick;
  if (typeof options["path"] === "string") return replace(options["path"], join(folder, component));
  if (options["config"] === undefined) return;
  const made = await make(id, options);
  if (made.save === undefined) throw new WaverError("needs_unmet", `${id} cannot be saved, so it cannot be trained`);
  await rm(join(folder, component), { recursive: true, force: true });
  await made.save(join(folder, component));
}

async function replace(from: string, to: string): Promise<void> {
  if (!existsSync(from)) throw new WaverError("checkpoint_missing", `${from} does not exist`);
  await rm(to, { recursive: true, force: true });
  await copyComponent(from, to);
}

/** Weights of an ancestor under another configuration. Sizes that do not fit are named when the network is loaded. */
async function inherit(from: string, to: string, config: object): Promise<void> {
  await replace(from, to);
  const path = join(to, "config.json");
  const before = JSON.parse(await readFile(path, "utf8")) as object;
  await Bun.write(path, `${JSON.stringify({ ...before, ...config }, null, 2)}\n`);
}
