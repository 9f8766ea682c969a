/**
 * A model folder in Diffusers layout: `model_index.json` names the class of every component, and a component is loaded by
 * whichever provider states that class. What lies in another layout is read as such a folder by a plugin that knows it
 * (foreign.ts). Nothing here knows a model by name.
 */
import { existsSync, readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { type Context, Digest, type HookName, SampleDefaults, WaverError } from "../../plugins/index.ts";
import { fileDigest, folderContentDigest } from "./digest.ts";
import { placesOf, readForeign } from "./foreign.ts";

/** Hooks whose providers load checkpoint components, and the components they are looked for under. */
const ROLES = {
  text: "encodeText",
  image: "encodeImage",
  family: "family",
  codec: "codec",
  sampler: "sample",
} as const satisfies Record<string, HookName>;
type LoadingHook = (typeof ROLES)[keyof typeof ROLES];

/** A component and who loads it. */
export interface Component {
  /** Its name in model_index.json, which is also its folder. */
  readonly name: string;
  readonly className: string;
  readonly id: string;
  readonly path: string;
  /** What its provider is loaded with beside the path. */
  readonly options: Readonly<Record<string, unknown>>;
}

/** A scheduler is its configuration: a folder, or options that say the same. */
export type Scheduler = Omit<Component, "path"> & { readonly path?: string };

export interface Pipeline {
  /** As it was named: in Diffusers' layout a folder. */
  readonly folder: string;
  readonly digest: Digest;
  /** One or two text encoders, in the order in which the family takes them. */
  readonly texts: readonly Component[];
  /** What image-to-video networks also read their image through. */
  readonly image?: Component;
  readonly family: Component;
  /** The second of two denoisers: it works below the flow time `from`, the first one at and above it. */
  readonly family2?: Component & { readonly from: number };
  readonly codec: Component;
  readonly sampler: Scheduler;
  /** Parts that are not the model's own. */
  readonly replaced: readonly Replacement[];
  readonly defaults: Partial<SampleDefaults>;
  /** What guidance points away from when the request does not say: the model's own word, else its family's. */
  readonly negativePrompt: string;
}

/** A file or folder in place of a component's own. */
export interface Replacement {
  readonly name: string;
  readonly path: string;
  readonly digest: Digest;
}

const Index = z.record(z.string(), z.unknown());
const Entry = z.tuple([z.string().nullable(), z.string().nullable()]);
/** What diffusers keeps beside the components of a pipeline with two denoisers. */
const Boundary = z.object({ boundary_ratio: z.number().min(0).max(1).nullish() });
const Ours = z.object({ defaults: SampleDefaults.partial().default({}), negativePrompt: z.string().optional() });

/**
 * Opens a folder, or an artefact by digest, with some parts replaced (NAME=PATH each). Reads JSON only; parts in torch's own
 * format are converted, unless `converts` is false.
 */
export async function openPipeline(
  model: string,
  replacements: readonly string[],
  ctx: Context,
  how: { readonly converts?: boolean } = {},
): Promise<Pipeline> {
  const asDigest = Digest.safeParse(model);
  const folder = asDigest.success ? await ctx.store.path(asDigest.data) : model;
  const foreign = existsSync(folder) && !existsSync(join(folder, INDEX)) ? await readForeign(folder, ctx) : null;
  const entries = foreign === null ? readIndex(folder) : entriesOf(foreign.index, folder);
  const replaced = await Promise.all(replacements.map((text) => replacement(text, entries.components, ctx)));
  const isReplaced = (name: string): boolean => replaced.some((each) => each.name === name);
  const places =
    foreign === null ? null : await placesOf(foreign, (name) => !isReplaced(name), how.converts ?? true, ctx);
  const component = ([name, className]: [string, string], hook: LoadingHook): Component => {
    const place = places === null ? { path: join(folder, name), options: besides(folder, name) } : places[name];
    const path = replaced.find((each) => each.name === name)?.path ?? place?.path;
    const made = { name, className, id: loaderOf(folder, name, className, hook, ctx), options: place?.options ?? {} };
    // A scheduler may have no place: its options say all.
    return { ...made, path } as Component;
  };
  const parts = (pattern: RegExp): [string, string][] =>
    Object.entries(entries.components).filter(([name, className]) => pattern.test(name) && className !== null) as [
      string,
      string,
    ][];
  const one = (what: string, role: keyof typeof ROLES, pattern: RegExp): Component => {
    const found = parts(pattern);
    if (found.length === 1) return component(found[0] as [string, string], ROLES[role]);
    throw new WaverError(
      "checkpoint_invalid",
      `${folder}: model_index.json names ${found.length === 0 ? `no ${what}` : `${found.map(([name]) => name).join(" and ")}, and one ${what} can be used`}`,
      role === "family" && found.length === 2
        ? { hint: "two denoisers need a boundary_ratio in model_index.json" }
        : {},
    );
  };
  const inOrder = (pattern: RegExp) => parts(pattern).sort(([a], [b]) => (a < b ? -1 : 1));
  const texts = inOrder(/^text_encoder(_\d+)?$/);
  const images = parts(/^image_encoder$/);
  const [, second] = entries.boundary === undefined ? [] : inOrder(/^transformer(_\d+)?$/);
  const family =
    second === undefined
      ? one("denoiser", "family", /^transformer(_\d+)?$/)
      : one("denoiser", "family", /^transformer$/);
  const { negativePrompt = "" } = ctx.providers("family").find(({ id }) => id === family.id)?.traits ?? {};
  return {
    folder,
    digest: asDigest.success ? asDigest.data : await contentDigest(folder, ctx),
    texts: texts.map((entry) => component(entry, ROLES.text)),
    ...(images.length === 0 ? {} : { image: one("image encoder", "image", /^image_encoder$/) }),
    family,
    ...(second === undefined
      ? {}
      : { family2: { ...component(second, ROLES.family), from: entries.boundary as number } }),
    codec: one("VAE", "codec", /^vae$/),
    sampler: one("scheduler", "sampler", /^scheduler$/),
    replaced,
    defaults: entries.defaults,
    negativePrompt: entries.negativePrompt ?? negativePrompt,
  };
}

interface Entries {
  readonly components: Record<string, string | null>;
  readonly boundary?: number;
  readonly defaults: Partial<SampleDefaults>;
  readonly negativePrompt: string | undefined;
}

const INDEX = "model_index.json";

/** A text encoder's tokenizer is a folder beside it. */
const besides = (folder: string, name: string): Record<string, unknown> =>
  /^text_encoder/.test(name) ? { tokenizer: join(folder, name.replace("text_encoder", "tokenizer")) } : {};

const contentDigest = async (path: string, ctx: Context): Promise<Digest> =>
  ((await stat(path)).isDirectory() ? folderContentDigest : fileDigest)(path, ctx);

function readIndex(folder: string): Entries {
  const path = join(folder, INDEX);
  if (!existsSync(folder))
    throw new WaverError("checkpoint_missing", `there is no model at ${folder}`, {
      hint: "model takes the folder that holds model_index.json, an artefact's digest, or a name from `waver models list`; `waver pull` fetches more",
    });
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} holds no model_index.json`, {
      hint: "model takes a whole pipeline: in Diffusers' layout, or in one that an installed plugin knows (hook layout)",
    });
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new WaverError("checkpoint_invalid", `${path} is not JSON`, { cause });
  }
  return entriesOf(json, path);
}

function entriesOf(json: unknown, path: string): Entries {
  const index = Index.safeParse(json);
  const ours = Ours.safeParse(index.data?.["_waver"] ?? {});
  const boundary = Boundary.safeParse(json);
  if (!index.success || !ours.success || !boundary.success)
    throw new WaverError(
      "checkpoint_invalid",
      `${path}: ${z.prettifyError((index.error ?? ours.error ?? boundary.error) as z.ZodError)}`,
    );
  const components: Record<string, string | null> = {};
  for (const [name, value] of Object.entries(index.data)) {
    const entry = Entry.safeParse(value);
    if (entry.success) components[name] = entry.data[1];
  }
  const { boundary_ratio } = boundary.data;
  const { defaults, negativePrompt } = ours.data;
  return { components, ...(boundary_ratio == null ? {} : { boundary: boundary_ratio }), defaults, negativePrompt };
}

/** `NAME=PATH` of a request. */
export function replacementSpec(text: string): { name: string; path: string } {
  const at = text.indexOf("=");
  return { name: text.slice(0, at), path: text.slice(at + 1) };
}

async function replacement(text: string, components: Entries["components"], ctx: Context): Promise<Replacement> {
  const { name, path } = replacementSpec(text);
  if (components[name] == null)
    throw new WaverError("invalid_input", `component: the model has no ${name}`, {
      hint: `it has ${Object.entries(components)
        .flatMap(([each, className]) => (className === null ? [] : [each]))
        .join(", ")}`,
    });
  const found = await stat(path).catch(() => null);
  if (found === null) throw new WaverError("checkpoint_missing", `component: there is no ${name} at ${path}`);
  return { name, path, digest: await contentDigest(path, ctx) };
}

/** The provider that states a class. */
function loaderOf(folder: string, name: string, className: string, hook: LoadingHook, ctx: Context): string {
  const providers = ctx.providers(hook);
  const found = providers.find(({ traits }) => traits.classes.includes(className));
  if (found !== undefined) return found.id;
  const known = providers.flatMap(({ id, traits }) => traits.classes.map((each) => `${each} (${id})`));
  throw new WaverError("no_provider", `no installed plugin loads ${className}, the ${name} of ${folder}`, {
    hint: `model_index.json may name one of: ${known.join(", ") || "none"}; or install a plugin that loads it`,
    data: { hook, component: name, className },
  });
}

/** A stand-in for a component of the same hook, picked in the request; it reads the component's folder if it knows its class. */
export function pathFor(
  { className, path, options }: Scheduler,
  pickedId: string,
  hook: LoadingHook,
  ctx: Context,
): Readonly<Record<string, unknown>> {
  const picked = ctx.providers(hook).find(({ id }) => id === pickedId);
  if (picked?.traits.classes.includes(className) !== true) return {};
  return { ...(path === undefined ? {} : { path }), ...options };
}

/** What guidance points away from: the request's word, else the model's. */
export const negativeOf = (
  { negativePrompt }: { readonly negativePrompt?: string | undefined },
  model: Pick<Pipeline, "negativePrompt">,
): string => negativePrompt ?? model.negativePrompt;
