/** The small weights that a request puts on the network: `PATH` or `PATH:WEIGHT`, several of them adding up. */
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { type Adapter, type Context, type Denoiser, Digest, WaverError } from "../../plugins/index.ts";
import { fileDigest, folderContentDigest } from "./digest.ts";

export interface AdapterSpec {
  /** A file, a folder, or an artefact's digest. */
  readonly path: string;
  readonly weight: number;
}

const NUMBER = String.raw`[-+]?(?:\d+\.?\d*|\.\d+)`;

/** A weight is a number after the last colon; 1 without one. */
export function adapterSpec(text: string): AdapterSpec {
  const [, path, weight] = new RegExp(`^(.+?)(?::(${NUMBER}))?$`).exec(text) ?? [];
  // a digest has a colon of its own
  if (path === undefined || Digest.safeParse(text).success) return { path: text, weight: 1 };
  return { path, weight: weight === undefined ? 1 : Number(weight) };
}

/** An adapter as a job knows it before anything is loaded. */
export interface NamedAdapter extends AdapterSpec {
  readonly name: string;
  readonly local: string;
  readonly digest: Digest;
}

export async function namedAdapters(specs: readonly string[], ctx: Context): Promise<NamedAdapter[]> {
  return Promise.all(
    specs.map(async (text) => {
      const { path, weight, local, known, isFolder } = await located(text, ctx);
      const digest = known ?? (isFolder ? await folderContentDigest(local, ctx) : await fileDigest(local, ctx));
      return { path, weight, local, digest, name: basename(path) };
    }),
  );
}

/** Bytes that adapters take beside a network: those of their files. */
export async function adapterBytes(specs: readonly string[], ctx: Context): Promise<number> {
  let sum = 0;
  for (const text of specs) {
    const { local, isFolder } = await located(text, ctx);
    const files = isFolder ? (await readdir(local)).filter((name) => name.endsWith(".safetensors")) : [""];
    for (const name of files) sum += (await stat(join(local, name))).size;
  }
  return sum;
}

async function located(
  text: string,
  ctx: Context,
): Promise<AdapterSpec & { local: string; known: Digest | undefined; isFolder: boolean }> {
  const { path, weight } = adapterSpec(text);
  const { data: known } = Digest.safeParse(path);
  const local = known === undefined ? path : await ctx.store.path(known);
  const found = await stat(local).catch(() => null);
  if (found === null)
    throw new WaverError("checkpoint_missing", `there is no LoRA at ${local}`, {
      hint: "lora takes a file or folder, and a weight after a colon: style.safetensors:0.8",
    });
  return { path, weight, local, known, isFolder: found.isDirectory() };
}

/** As a recipe states them. */
export const described = (adapters: readonly NamedAdapter[]) =>
  adapters.map(({ name, digest, weight }) => ({ name, digest, weight }));

/** Whoever reads the format that the request's field is named after. */
function reader(ctx: Context): string {
  const found = ctx.providers("adapt").find(({ traits }) => traits.formats.includes("lora"));
  if (found === undefined) throw new WaverError("no_provider", "no installed plugin reads LoRA files");
  return found.id;
}

/** Runs a synchronous stretch of work with some adapters on. */
export type Adapted = <T>(work: () => T) => T;

/** Loads them beside the network, which stays as it is: jobs that share it do not see each other's. */
export async function adapted(adapters: readonly NamedAdapter[], denoiser: Denoiser, ctx: Context): Promise<Adapted> {
  const loaded: (readonly [Adapter, number])[] = [];
  for (const { local, weight } of adapters)
    loaded.push([await (await ctx.use("adapt", reader(ctx), { path: local }))({ denoiser }), weight]);
  return (work) =>
    loaded.reduceRight<typeof work>(
      (inner, [adapter, weight]) =>
        () =>
          adapter.during(weight, inner),
      work,
    )();
}
