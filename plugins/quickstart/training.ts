/** The training part of the chain: three stages and an average, each a child job. */
import { existsSync } from "node:fs";
import { copyFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "../index.ts";
import { Merged, Trained } from "./outputs.ts";
import { imageStage, type Profile, refinerStage, videoStage } from "./profile.ts";
import type { LossCurve } from "./results.ts";
import { named, type Steps } from "./steps.ts";

export interface Models {
  /** Pipeline that makes images and videos: the average of the last snapshots. */
  readonly video: string;
  readonly digest: string;
  /** Pipeline that has a refiner too. */
  readonly refiner: string;
  readonly curves: LossCurve[];
}

export async function trained(
  set: string,
  seed: number,
  profile: Profile,
  root: string,
  vae: string,
  steps: Steps,
): Promise<Models> {
  const folder = join(root, "models");
  const stage = async (
    name: string,
    short: string,
    body: Record<string, unknown>,
  ): Promise<z.output<typeof Trained>> => {
    const input = { set, ...body };
    return steps.run(name, "train", { ...input, output: named(folder, short, input) }, Trained);
  };
  const image = await stage("Train: words to images", "image", imageStage(profile, seed, vae));
  const video = await stage("Train: words and images to video", "video", {
    model: image.digest,
    ...videoStage(profile, seed),
  });
  const checkpoints = video.snapshots.map(({ digest }) => digest);
  const merged =
    checkpoints.length < 2
      ? { path: video.path, digest: video.digest }
      : await steps.run(
          "Average snapshots",
          "merge",
          { checkpoints, output: named(folder, "average", checkpoints) },
          Merged,
        );
  const refiner = await stage("Train: refiner", "refiner", { model: merged.digest, ...refinerStage(profile, seed) });
  const curves = await Promise.all([
    curveOf("Words to images", "single frames, from fresh weights", image),
    curveOf("Words and images to video", "clips, a first frame known one time in five", video),
    curveOf("Refiner", "from degraded to clean latents, at twice the size", refiner),
  ]);
  return { video: merged.path, digest: merged.digest, refiner: refiner.path, curves };
}

const Line = z.object({ step: z.int(), loss: z.number().nullable() });

/** A stage's losses. Its log goes with its job's folder when the whole is done, so a copy is kept beside the model. */
async function curveOf(
  name: string,
  summary: string,
  { path, lossLog, steps }: z.output<typeof Trained>,
): Promise<LossCurve> {
  const kept = `${path}.loss.jsonl`;
  if (existsSync(lossLog)) await copyFile(lossLog, kept);
  const lines = existsSync(kept) ? (await readFile(kept, "utf8")).trimEnd().split("\n") : [];
  const points = lines
    .map((line) => Line.parse(JSON.parse(line)))
    .filter((point): point is { step: number; loss: number } => point.loss !== null);
  return {
    name,
    summary,
    steps: points.map(({ step }) => step),
    losses: points.map(({ loss }) => loss),
    numSteps: steps,
  };
}
