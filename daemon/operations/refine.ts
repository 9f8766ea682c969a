/** A video in, the same at a higher resolution out, by the refiner of a pipeline (Waver 2.2). */
import { existsSync } from "node:fs";
import { chmod, copyFile, mkdir, rename } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { version } from "../../package.json";
import {
  type Context,
  Digest,
  defineOperation,
  OFFLOAD,
  Offload,
  type Pick,
  type Picks,
  problemsOfOffload,
  takes,
  WaverError,
  WEIGHTS,
  WeightForm,
} from "../../plugins/index.ts";
import { fileDigest, folderContentDigest } from "../generation/digest.ts";
import { problemsOfRanks, rankFields, ranksOf } from "../runner/mesh.ts";
import { classOf, readIndex } from "../runner/training/pipeline.ts";
import { localPath } from "../runner/training/set.ts";

const Fields = z.strictObject({
  video: z.string().meta({ description: "file or digest of the video to refine", format: "path" }),
  model: z.string().meta({ description: "name, folder or digest of a pipeline with a refiner", format: "model" }),
  scale: z.number().min(1).default(2),
  prompt: z.string().optional().meta({ description: "what the video shows; what it was generated from when absent" }),
  numSteps: z.int().positive().default(20),
  seed: z.int().nonnegative().default(0),
  wd: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .meta({ description: "share of noise; little keeps what is there, much lets the prompt change it" }),
  shift: z.number().positive().default(1).meta({ description: "shift of the sampling grid" }),
  weights: WeightForm.optional().meta({ description: WEIGHTS }),
  offload: Offload.default("auto").meta({ description: OFFLOAD }),
  ...rankFields,
  output: z.string().optional().meta({ description: "file for the result", format: "path" }),
  keepLatents: z.boolean().default(false).meta({ description: "keep the refined latents beside the video" }),
});
const input = Fields.superRefine((request, ctx) => {
  for (const [path, message] of [...problemsOfRanks(request.ranks, request.parallel), ...problemsOfOffload(request)])
    ctx.addIssue({ code: "custom", path: [path], message });
});

const output = z.object({
  path: z.string(),
  digest: Digest,
  width: z.int(),
  height: z.int(),
  numFrames: z.int(),
  prompt: z.string(),
  /** File of the refined latents, when they were asked for. */
  latents: z.string().optional(),
});

export const refine = defineOperation({
  kind: "job",
  summary: "raises the resolution of a video with the pipeline's refiner",
  runs: "device",
  input,
  output,
  slots: {
    refiner: {
      hook: "refine",
      summary: "what refines; whoever loads the pipeline's refiner when silent",
      optional: true,
    },
  },
  reads: ({ video, model }) => [video, model].filter((path) => !Digest.safeParse(path).success),
  ranks: ranksOf,
  writes: ({ path, digest, latents }) => [path, digest, ...(latents === undefined ? [] : [latents])],
  examples: [
    "waver refine --model MODEL --video clip.mp4 --output clip-refined.mp4",
    "waver refine --model MODEL --video clip.mp4 --ranks 4 --parallel ulysses",
  ],
  run,
});

async function run(request: z.output<typeof input>, picks: Picks, ctx: Context): Promise<z.output<typeof output>> {
  const model = await localPath(request.model, ctx);
  const source = await localPath(request.video, ctx);
  if (!existsSync(source)) throw new WaverError("media_missing", `there is no video at ${request.video}`);
  const loader = await refinerOf(model, ctx);
  const picked = (picks["refiner"] as Pick | undefined) ?? { id: loader };
  const provider = ctx.providers("refine").find(({ id }) => id === picked.id);
  const offloads = takes("refine", picked.id, "offload", ctx);
  if (request.offload === "blocks" && !offloads)
    throw new WaverError("needs_unmet", `${picked.id} keeps its weights whole on the device`, {
      hint: "leave offload out",
    });
  const { weights } = request;
  if (weights !== undefined && !takes("refine", picked.id, "weights", ctx))
    throw new WaverError("needs_unmet", `${picked.id} keeps its weights as they are stored, not in ${weights}`, {
      hint: "leave weights out",
    });
  // A stand-in that does not load the pipeline's refiner is not handed its folder.
  const pick: Pick =
    picked.id === loader
      ? {
          ...{ path: model, shift: request.shift },
          ...(offloads ? { offload: request.offload } : {}),
          ...(weights === undefined ? {} : { weights }),
          ...picked,
        }
      : picked;
  const { maxScale } = provider?.traits ?? { maxScale: request.scale };
  if (request.scale > maxScale)
    throw new WaverError("invalid_input", `${pick.id} enlarges up to ${maxScale} times, not ${request.scale}`);
  const metadata = (await ctx.media.readMetadata(source)) ?? {};
  const prompt = request.prompt ?? (typeof metadata["prompt"] === "string" ? metadata["prompt"] : "");

  const made = join(ctx.workDir, "refined.mp4");
  const options = {
    ...metadata,
    refined: {
      ...request,
      // where it was and how it was fitted in changes nothing in it
      ...{ video: undefined, model: undefined, output: undefined },
      ...{ offload: undefined, ranks: undefined, parallel: undefined },
      prompt,
      refiner: picked.id,
    },
  };
  const { width, height, numFrames } = await ctx.unit(
    "refined",
    z.object({ width: z.int(), height: z.int(), numFrames: z.int() }),
    () => refineFile(source, made, pick, { ...request, prompt, metadata: options }, ctx),
  );
  const inputs = [
    { role: "video", digest: await fileDigest(source, ctx) },
    { role: "model", digest: await folderContentDigest(model, ctx) },
  ];
  const publish = (path: string, kind: string): Promise<Digest> =>
    ctx.store.publish(path, {
      kind,
      inputs,
      by: { operation: "refine", version },
      options,
      seed: request.seed,
    });
  const digest = await publish(made, "video");
  const latents = request.keepLatents ? await ctx.store.path(await publish(latentsOf(made), "latents")) : undefined;
  return {
    ...{ path: await handOut(request.output, digest, ctx), digest, width, height, numFrames, prompt },
    ...(latents === undefined ? {} : { latents }),
  };
}

/** The provider that loads the class of the pipeline's refiner. */
async function refinerOf(model: string, ctx: Context): Promise<string> {
  const name = classOf(await readIndex(model), "refiner");
  if (name === null)
    throw new WaverError("checkpoint_missing", `${model} has no refiner`, {
      hint: "train one: waver train --component refiner",
    });
  const found = ctx.providers("refine").find(({ traits }) => traits.classes.includes(name));
  if (found === undefined) throw new WaverError("no_provider", `no installed plugin refines with ${name}`);
  return found.id;
}

const latentsOf = (video: string): string => video.replace(/\.mp4$/, ".latents.safetensors");

async function refineFile(
  source: string,
  target: string,
  { id, ...options }: Pick,
  request: z.output<typeof input> & { prompt: string; metadata: Record<string, unknown> },
  ctx: Context,
): Promise<{ width: number; height: number; numFrames: number }> {
  const { readVideo, saveLatents, toFrames } = await import("../runner/video.ts");
  const { scale, prompt, numSteps, seed, wd, metadata } = request;
  const onLatents = request.keepLatents ? saveLatents(latentsOf(target)) : undefined;
  const refiner = await ctx.use("refine", id, options);
  const { video, fps } = await readVideo(source, ctx);
  try {
    const refined = await refiner({
      video,
      scale,
      prompt: [prompt],
      numSteps,
      seed,
      wd,
      onLatents,
      signal: ctx.signal,
    });
    try {
      await ctx.media.writeVideo(target, toFrames(refined, fps), { fps, metadata, signal: ctx.signal });
      const [, , numFrames, height, width] = refined.shape as [number, number, number, number, number];
      return { width, height, numFrames };
    } finally {
      refined.dispose();
    }
  } finally {
    video.dispose();
  }
}

/** The published file where it was asked for; without a wish, where the store keeps it. */
async function handOut(wanted: string | undefined, digest: Digest, ctx: Context): Promise<string> {
  const stored = await ctx.store.path(digest);
  if (wanted === undefined) return stored;
  const target = resolve(wanted);
  await mkdir(dirname(target), { recursive: true });
  await copyFile(stored, `${target}.tmp`);
  await chmod(`${target}.tmp`, 0o644);
  await rename(`${target}.tmp`, target);
  return target;
}
