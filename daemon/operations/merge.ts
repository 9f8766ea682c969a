/** One pipeline from several of the same kind: components that differ are merged, the others are taken from the first. */
import { existsSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { z } from "zod";
import { version } from "../../package.json";
import { type Context, Digest, defineOperation, type Pick, type Picks, WaverError } from "../../plugins/index.ts";
import { folderContentDigest } from "../generation/digest.ts";
import { copyComponent, publishFolder } from "../runner/training/pipeline.ts";
import { localPath } from "../runner/training/set.ts";

const input = z.strictObject({
  checkpoints: z
    .array(z.string())
    .min(1)
    .meta({ description: "folders or digests: pipelines, or single components", format: "path" }),
  output: z.string().meta({ description: "folder for the result; must not exist", format: "path" }),
});

const output = z.object({
  path: z.string(),
  digest: Digest,
  /** Components that differed and were merged. */
  merged: z.array(z.string()),
});

export const merge = defineOperation({
  kind: "job",
  summary: "merges checkpoints of one network into one, for instance snapshots of a training",
  runs: "device",
  input,
  output,
  slots: { method: { hook: "merge", summary: "how weights are combined", default: { id: "average" } } },
  reads: ({ checkpoints }) => checkpoints.filter((path) => !Digest.safeParse(path).success),
  writes: ({ path, digest }) => [path, digest],
  examples: [
    "waver merge --checkpoints a/ b/ c/ --output merged/",
    "waver merge --checkpoints base/ a/ b/ --method ties --method.density 0.3 --output merged/",
  ],
  run,
});

const INDEX = "model_index.json";

async function run(request: z.output<typeof input>, picks: Picks, ctx: Context): Promise<z.output<typeof output>> {
  const target = resolve(request.output);
  const result = join(ctx.workDir, "result");
  if (existsSync(target) && !existsSync(result))
    throw new WaverError("conflict", `${target} exists already`, {
      hint: "give another output folder, or remove this one",
    });
  const folders = await Promise.all(request.checkpoints.map((each) => localPath(each, ctx)));
  const missing = folders.find((folder) => !existsSync(folder));
  if (missing !== undefined) throw new WaverError("checkpoint_missing", `${missing} does not exist`);

  const { id, ...options } = picks["method"] as Pick;
  using method = await ctx.use("merge", id, options);
  const isPipeline = existsSync(join(folders[0]!, INDEX));
  if (isPipeline && folders.length === 1)
    throw new WaverError("invalid_input", "one pipeline alone leaves nothing to merge", {
      hint: `give several, or the one part that the method works on: ${join(folders[0]!, "transformer")}`,
    });
  const parts = isPipeline ? await differing(folders, ctx) : ["."];
  const work = join(ctx.workDir, "merging");
  await mkdir(work, { recursive: true });
  for (const part of parts)
    await method({ checkpoints: folders.map((folder) => ({ path: join(folder, part) })), output: join(work, part) });
  if (!existsSync(result))
    await publishFolder(result, async (folder) => {
      await copyComponent(work, folder);
      // What is already there stays; the rest is the first one's.
      if (isPipeline) await copyComponent(folders[0]!, folder);
    });
  const digest = await ctx.store.publish(result, {
    kind: "model",
    inputs: await Promise.all(
      folders.map(async (folder) => ({ role: "checkpoint", digest: await folderContentDigest(folder, ctx) })),
    ),
    by: { operation: "merge", version },
    options: { method: picks["method"], merged: parts },
  });
  if (!existsSync(target)) await publishFolder(target, (folder) => copyComponent(result, folder));
  return { path: target, digest, merged: parts };
}

/** Components with weights whose content is not the same in all folders. */
async function differing(folders: readonly string[], ctx: Context): Promise<string[]> {
  const parts: string[] = [];
  for (const entry of (await readdir(folders[0]!, { withFileTypes: true })).filter((each) => each.isDirectory())) {
    const places = folders.map((folder) => join(folder, entry.name));
    const lacking = places.find((place) => !existsSync(place));
    if (lacking !== undefined)
      throw new WaverError(
        "checkpoint_mismatch",
        `${lacking} is missing: all checkpoints must be pipelines of one kind`,
      );
    if (!(await readdir(places[0]!)).some((name) => name.endsWith(".safetensors"))) continue;
    const contents = new Set(await Promise.all(places.map((place) => folderContentDigest(place, ctx))));
    if (contents.size > 1) parts.push(entry.name);
  }
  return parts;
}
