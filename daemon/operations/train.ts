/**
 * One stage of training: a set and a parent in, a pipeline folder out (Waver 4.1). Numbers that differ between stages
 * are in configs/train; what a stage minimises is an objective. The order below is the order in which things happen.
 */
import { existsSync, statSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { z } from "zod";
import { version } from "../../package.json";
import {
  type Batch,
  type Context,
  Digest,
  defineOperation,
  type Objective,
  type Pick,
  type Picks,
  toWaverError,
  WaverError,
} from "../../plugins/index.ts";
import { fileDigest, folderContentDigest } from "../generation/digest.ts";
import type { Components } from "../runner/training/components.ts";
import { Loader } from "../runner/training/loader.ts";
import { copyComponent, entryOf, publishFolder, readIndex, withOwn, writeIndex } from "../runner/training/pipeline.ts";
import type { PreparedFiles, PreparedItem } from "../runner/training/prepare.ts";
import { TrainInput } from "../runner/training/recipe.ts";
import { ResumePoints } from "../runner/training/resume.ts";
import { readSet } from "../runner/training/set.ts";

const Snapshot = z.object({ step: z.int(), path: z.string(), digest: Digest });

export const TrainOutput = z.object({
  /** The trained pipeline: the averaged weights, and everything else from the parent. */
  path: z.string(),
  digest: Digest,
  steps: z.int(),
  /** Mean loss of the first and of the last tenth of the steps. */
  firstLoss: z.number(),
  lastLoss: z.number(),
  lossLog: z.string(),
  numClips: z.int(),
  /** Averages from along the way, oldest first, for merging. */
  snapshots: z.array(Snapshot),
});

export const train = defineOperation({
  kind: "job",
  summary: "trains a network of a pipeline on a set of captioned clips",
  runs: "device",
  input: TrainInput,
  output: TrainOutput,
  slots: {
    objective: { hook: "objective", summary: "what is minimised", default: { id: "flow" } },
    family: {
      hook: "family",
      summary: "the network; the parent's when silent, fresh weights with a config",
      optional: true,
    },
    codec: { hook: "codec", summary: "video to latents; the parent's when silent", optional: true },
    encodeText: { hook: "encodeText", summary: "the text encoder; the parent's when silent", optional: true },
    encodeText2: { hook: "encodeText", summary: "the second text encoder, for networks that take two", optional: true },
    sample: { hook: "sample", summary: "the sampler that the trained pipeline names", default: { id: "euler" } },
  },
  reads: ({ set, model }) =>
    [set, ...(model === null ? [] : [model])].filter((path) => !Digest.safeParse(path).success),
  writes: ({ path, digest, snapshots }) => [path, digest, ...snapshots.map((each) => each.digest)],
  examples: ["waver train --recipe configs/train/nano-video.ts --set set/ --output model/"],
  run,
});

async function run(recipe: TrainInput, picks: Picks, ctx: Context): Promise<z.output<typeof TrainOutput>> {
  // The engine is loaded where the work is done, not where operations are listed.
  const [{ assemble }, { prepare, PreparedFiles }, { Trainer }] = await Promise.all([
    import("../runner/training/components.ts"),
    import("../runner/training/prepare.ts"),
    import("../runner/training/trainer.ts"),
  ]);
  const [result, target] = [join(ctx.workDir, "result"), resolve(recipe.output)];
  if (existsSync(target) && !existsSync(result))
    throw new WaverError("conflict", `${target} exists already`, {
      hint: "give another output folder, or remove this one",
    });
  const rows = await readSet(recipe.set, ctx);
  const components = await assemble(recipe, picks, ctx);
  await using objective = await objectiveOf(recipe, components, picks, ctx);
  const items = await prepare(rows, recipe, objective, ctx);
  const loader = new Loader({ items, batch: recipe.batch, imageShare: recipe.imageShare, seed: recipe.seed });
  using files = new PreparedFiles();

  const lossLog = join(ctx.workDir, "loss.jsonl");
  using trainer = new Trainer(objective, recipe, lossLog);
  const points = new ResumePoints(
    join(ctx.workDir, "checkpoints"),
    new Bun.CryptoHasher("sha256").update(JSON.stringify([recipe, picks])).digest("hex"),
  );
  const latest = await points.latest((path, reason) =>
    ctx.log("resume_point_damaged", { level: "warn", path, reason }),
  );
  if (latest === null) {
    await Bun.write(lossLog, "");
    await trainer.save(points); // step 0: from here on there is always something to go back to
  } else {
    trainer.load(latest.path, latest.point);
    loader.seek(trainer.step);
    ctx.log("training_resumed", { step: trainer.step });
  }

  const snapshots = join(ctx.workDir, "snapshots");
  const finish = (folder: string): Promise<void> =>
    trainer.withAverage(() => writePipeline(folder, recipe, picks, components, objective));
  let savedAt = performance.now();
  try {
    while (trainer.step < recipe.steps) {
      const { kind, items: chosen } = loader.next();
      const report = trainer.next(() => batchOf(kind, chosen, files));
      if (report.skipped) ctx.log("step_skipped", { level: "warn", step: report.step, loss: String(report.loss) });
      ctx.progress(trainer.step, recipe.steps, "train", {
        loss: report.loss,
        lr: report.lr,
        gradNorm: report.gradNorm,
      });

      const isDue =
        trainer.step % recipe.checkpointEvery === 0 || performance.now() - savedAt > recipe.checkpointSeconds * 1000;
      if (isDue && trainer.isSound && trainer.step < recipe.steps) {
        await trainer.save(points);
        savedAt = performance.now();
      }
      if (isSnapshot(recipe, trainer.step)) {
        const folder = join(snapshots, `step-${String(trainer.step).padStart(8, "0")}`);
        if (!existsSync(folder)) await publishFolder(folder, finish);
      }
      await ctx.breathe();
    }
  } catch (error) {
    if (toWaverError(error).code === "cancelled" && trainer.isSound) await trainer.save(points);
    throw error;
  }
  await trainer.save(points);

  if (!existsSync(result)) await publishFolder(result, finish);
  const digest = await publish(result, recipe, picks, ctx, { steps: recipe.steps });
  if (!existsSync(target)) await publishFolder(target, (folder) => copyComponent(result, folder));
  return {
    path: target,
    digest,
    steps: recipe.steps,
    ...(await losses(lossLog)),
    lossLog,
    numClips: new Set(items.map((item) => item.id)).size,
    snapshots: await publishSnapshots(snapshots, recipe, picks, ctx),
  };
}

async function objectiveOf(
  recipe: TrainInput,
  { denoiser, codec, text, text2 }: Components,
  picks: Picks,
  ctx: Context,
): Promise<Objective> {
  const { id, ...options } = picks["objective"] as Pick;
  const make = await ctx.use("objective", id, options);
  return make({
    denoiser,
    codec,
    text,
    ...(text2 === undefined ? {} : { text2 }),
    trainText: recipe.trainText,
    matmul: recipe.matmul,
  });
}

function batchOf(kind: PreparedItem["kind"], items: readonly PreparedItem[], files: PreparedFiles): Batch {
  const { latents, video, ...extras } = files.batch(items);
  return {
    ids: items.map((item) => item.id),
    task: kind === "image" ? "t2i" : "t2v",
    captions: items.map((item) => item.caption),
    ...(latents === undefined ? {} : { latents }),
    ...(video === undefined ? {} : { video }),
    extras,
  };
}

/** The last `keepSnapshots` multiples of `snapshotEvery`, the end included. */
function isSnapshot({ steps, keepSnapshots, snapshotEvery }: TrainInput, step: number): boolean {
  const behind = steps - step;
  return behind % snapshotEvery === 0 && behind / snapshotEvery < keepSnapshots;
}

/** The parent's pipeline with the trained parts in their places. */
async function writePipeline(
  folder: string,
  recipe: TrainInput,
  picks: Picks,
  { folder: start, denoiser, text }: Components,
  objective: Objective,
): Promise<void> {
  const trained = new Set([recipe.component, ...(objective.modules["text"] === undefined ? [] : ["text_encoder"])]);
  for (const { name } of (await readdir(start, { withFileTypes: true })).filter(
    (entry) => entry.isDirectory() && !trained.has(entry.name),
  ))
    await copyComponent(join(start, name), join(folder, name));
  await denoiser.save(join(folder, recipe.component));
  if (trained.has("text_encoder")) await text.save(join(folder, "text_encoder"));
  const entries = await Promise.all(
    [...trained].map(async (name) => [name, await entryOf(join(folder, name))] as const),
  );
  const index = { ...(await readIndex(start)), ...Object.fromEntries(entries) };
  const size = recipe.video?.sizes[0] ?? recipe.image?.sizes[0];
  const shape = {
    ...size,
    numFrames: recipe.video?.frames ?? 1,
    fps: recipe.video?.fps ?? 1,
    numSteps: recipe.sampleSteps,
  };
  // `generate` makes what the network was trained on when nobody says; a refiner reads what it was trained to undo.
  const own = { trained: { [recipe.component]: picks["objective"] } };
  const negativePrompt = recipe.negativePrompt ?? (recipe.model === null ? "" : undefined);
  const ours =
    recipe.component === "transformer"
      ? { ...own, defaults: shape, ...(negativePrompt === undefined ? {} : { negativePrompt }) }
      : own;
  await writeIndex(folder, withOwn(index, ours));
  await Bun.write(join(folder, "recipe.json"), `${JSON.stringify(recipe, null, 2)}\n`);
}

async function publish(
  folder: string,
  recipe: TrainInput,
  picks: Picks,
  ctx: Context,
  meta: { steps: number },
): Promise<Digest> {
  const given = { set: recipe.set, ...(recipe.model === null ? {} : { parent: recipe.model }) };
  const inputs = await Promise.all(
    Object.entries(given).map(async ([role, named]) => {
      const digest = Digest.safeParse(named);
      return { role, digest: digest.success ? digest.data : await contentDigest(named, ctx) };
    }),
  );
  return ctx.store.publish(folder, {
    kind: "model",
    inputs,
    by: { operation: "train", version },
    options: { recipe, picks },
    seed: recipe.seed,
    meta,
  });
}

/** What a folder or a file holds has the digest that it had, or would have, in the store. */
const contentDigest = (path: string, ctx: Context): Promise<Digest> =>
  statSync(path).isDirectory() ? folderContentDigest(path, ctx) : fileDigest(path, ctx);

async function publishSnapshots(
  folder: string,
  recipe: TrainInput,
  picks: Picks,
  ctx: Context,
): Promise<z.output<typeof Snapshot>[]> {
  await mkdir(folder, { recursive: true });
  const found: z.output<typeof Snapshot>[] = [];
  for (const name of (await readdir(folder)).filter((each) => /^step-\d+$/.test(each)).sort()) {
    const step = Number(name.slice("step-".length));
    const digest = await publish(join(folder, name), recipe, picks, ctx, { steps: step });
    found.push({ step, path: await ctx.store.path(digest), digest });
  }
  return found;
}

async function losses(log: string): Promise<{ firstLoss: number; lastLoss: number }> {
  const all = (await Bun.file(log).text())
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { loss: number | null }).loss ?? Number.NaN);
  const tenth = Math.max(1, Math.floor(all.length / 10));
  const mean = (part: number[]): number => part.reduce((sum, loss) => sum + loss, 0) / part.length;
  return { firstLoss: mean(all.slice(0, tenth)), lastLoss: mean(all.slice(-tenth)) };
}
