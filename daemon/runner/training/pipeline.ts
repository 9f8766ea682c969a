/**
 * Pipeline folders in Diffusers layout: `model_index.json` names the class of every component, each in its own folder.
 * A component is matched to a provider by class, never by name.
 */
import { constants, existsSync } from "node:fs";
import { chmod, copyFile, mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import { type Context, type HookName, type SampleDefaults, WaverError } from "../../../plugins/index.ts";

const Index = z.looseObject({ _class_name: z.string().default("WaverPipeline"), _waver: z.looseObject({}).optional() });
export type Index = z.output<typeof Index>;

const INDEX = "model_index.json";

export async function readIndex(folder: string): Promise<Index> {
  const path = join(folder, INDEX);
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} is no pipeline: it holds no ${INDEX}`, {
      hint: "give the folder that holds transformer/, vae/ and text_encoder/",
    });
  const parsed = Index.safeParse(JSON.parse(await readFile(path, "utf8")));
  if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${parsed.error.issues[0]?.message}`);
  return parsed.data;
}

export const writeIndex = async (folder: string, index: Index): Promise<void> => {
  await Bun.write(join(folder, INDEX), `${JSON.stringify(index, null, 2)}\n`);
};

/** Class of a component as `model_index.json` says, or null when the pipeline lacks it. */
export function classOf(index: Index, component: string): string | null {
  const entry = index[component];
  return Array.isArray(entry) && typeof entry[1] === "string" ? entry[1] : null;
}

/** The entry of a component: the library whose layout its config follows, and its class. */
export async function entryOf(folder: string): Promise<[string, string]> {
  const names = ["config.json", "scheduler_config.json", "tokenizer_config.json"].map((name) => join(folder, name));
  const path = names.find((name) => existsSync(name));
  if (path === undefined) throw new WaverError("checkpoint_invalid", `${folder} holds no configuration`);
  const config = JSON.parse(await readFile(path, "utf8")) as {
    _class_name?: string;
    architectures?: string[];
    tokenizer_class?: string;
  };
  if (config._class_name !== undefined) return ["diffusers", config._class_name];
  return ["transformers", config.architectures?.[0] ?? config.tokenizer_class ?? "PreTrainedTokenizerFast"];
}

/** The provider whose traits name this class. */
export function providerOf<H extends Extract<HookName, "family" | "codec" | "encodeText" | "sample">>(
  hook: H,
  name: string,
  ctx: Pick<Context, "providers">,
): string {
  const found = ctx
    .providers(hook)
    .find(({ traits }) => (traits as { classes: readonly string[] }).classes.includes(name));
  if (found !== undefined) return found.id;
  throw new WaverError("no_provider", `no provider of ${hook} loads ${name}`, {
    data: {
      hook,
      class: name,
      known: ctx
        .providers(hook)
        .map(({ id, traits }) => ({ id, classes: (traits as { classes: readonly string[] }).classes })),
    },
  });
}

/** Copies a folder, sharing blocks where the disk can. What the store keeps is read-only; a copy is its owner's. */
export async function copyComponent(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.name.startsWith(".")) continue;
    if (entry.isDirectory()) await copyComponent(source, target);
    else if (!existsSync(target)) {
      await copyFile(source, target, constants.COPYFILE_FICLONE);
      await chmod(target, 0o644);
    }
  }
}

/** Fills a folder beside `target` and renames it into place: readers see the whole folder or none. */
export async function publishFolder(target: string, fill: (folder: string) => Promise<void>): Promise<void> {
  if (existsSync(target))
    throw new WaverError("conflict", `${target} exists already`, {
      hint: "give another output folder, or remove this one",
    });
  await mkdir(dirname(target), { recursive: true });
  const work = `${target}.tmp.${crypto.randomUUID()}`;
  try {
    await mkdir(work);
    await fill(work);
    await rename(work, target);
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    throw error;
  }
}

/** Our own part of an index: `defaults` of sampling, and `trained`, what each component was trained by. */
export const withOwn = (
  index: Index,
  own: { defaults?: Partial<SampleDefaults>; negativePrompt?: string; trained: object },
): Index => {
  const before = index._waver as { defaults?: object; trained?: object } | undefined;
  return {
    ...index,
    _waver: {
      ...before,
      ...(own.negativePrompt === undefined ? {} : { negativePrompt: own.negativePrompt }),
      defaults: { ...before?.defaults, ...own.defaults },
      trained: { ...before?.trained, ...own.trained },
    },
  };
};
