/** The making part of the chain: clips and images from words and first frames, and the refiner's work on some of them. */
import { join } from "node:path";
import type { CutClip } from "./cut.ts";
import { Made, Refined } from "./outputs.ts";
import { type Profile, SCALE } from "./profile.ts";
import type { Generated, RefinedClip, Results } from "./results.ts";
import type { HeldOut } from "./sources.ts";
import { named, type Steps } from "./steps.ts";

/** Different captions, spread evenly over the set: its order is that of the sources. */
export function chosenPrompts(clips: readonly CutClip[], count: number): CutClip[] {
  const distinct = [...new Map(clips.map((clip) => [clip.caption, clip])).values()];
  const most = Math.min(count, distinct.length);
  return Array.from({ length: most }, (_, i) => distinct[Math.floor((i * distinct.length) / most)] as CutClip);
}

type Samples = Pick<Results, "textToVideo" | "textToImage" | "imageToVideo">;

export async function generated(
  model: string,
  prompts: readonly CutClip[],
  { seeds, numSteps }: Profile,
  root: string,
  steps: Steps,
): Promise<Samples> {
  const folder = join(root, "samples");
  const captions = prompts.map(({ caption }) => caption);
  const ask = async (name: string, kind: string, body: Record<string, unknown>): Promise<Generated[]> => {
    // 4:2:0 throughout: the page has to play wherever it is opened.
    const input = { model, numSteps, minPsnr: 0, ...body };
    const { items } = await steps.run(name, "generate", { ...input, output: named(folder, kind, input) }, Made);
    return items.map(({ prompt, seed, path, digest }) => ({
      id: `${kind}-${digest.slice(7, 19)}-${seed}`,
      prompt,
      seed,
      file: path,
      digest,
    }));
  };
  const textToVideo = await ask("Words to video", "t2v", { prompt: captions, seed: [...seeds], batchSize: 12 });
  const textToImage = await ask("Words to images", "t2i", {
    prompt: captions,
    seed: [seeds[0]],
    numFrames: 1,
    batchSize: 12,
  });
  const imageToVideo: Generated[] = [];
  for (const [i, { caption, image }] of prompts.entries()) {
    const made = await ask(`Image to video ${i + 1}`, `i2v-${i + 1}`, { prompt: caption, image, seed: [seeds[0]] });
    imageToVideo.push(...made.map((each) => ({ ...each, image })));
  }
  return { textToVideo, textToImage, imageToVideo };
}

interface RefinedClips {
  readonly generated: ReadonlyMap<string, string>;
  readonly heldOut: readonly RefinedClip[];
}

export async function refined(
  model: string,
  made: readonly Generated[],
  heldOut: readonly HeldOut[],
  profile: Profile,
  root: string,
  steps: Steps,
): Promise<RefinedClips> {
  const folder = join(root, "refined");
  const one = (name: string, id: string, video: string, prompt: string, keepLatents = false) => {
    const input = { model, video, prompt, scale: SCALE, numSteps: profile.refineSteps, seed: 1, keepLatents };
    return steps.run(name, "refine", { ...input, output: `${named(folder, id, input)}.mp4` }, Refined);
  };
  const firstOfEach = [...new Map(made.toReversed().map((each) => [each.prompt, each])).values()]
    .toReversed()
    .slice(0, profile.refined);
  const larger = new Map<string, string>();
  for (const [i, { id, file, prompt }] of firstOfEach.entries())
    larger.set(id, (await one(`Refine ${i + 1}`, `sample-${i + 1}`, file, prompt)).path);
  const kept: RefinedClip[] = [];
  for (const [i, clip] of heldOut.entries()) {
    // Judged by its latents: a decoder as small as this one, and then the file's own coding, cost more than is gained.
    const { path, latents = "" } = await one(`Refine held-out ${i + 1}`, clip.id, clip.low, clip.caption, true);
    kept.push({ ...clip, refined: path, latents });
  }
  return { generated: larger, heldOut: kept };
}
