/** A made-up description with every part a report can have, and hostile words in some of them. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { Description } from "../../plugins/report/description.ts";
import type { Digest, Store } from "../../plugins/types.ts";
import { makeClip } from "./clips.ts";

const PROMPTS = [
  "a red ball bounces across green grass under a blue sky",
  "a white sailboat drifts over a dark sea at orange sunset",
  "a rocket with a bright flame flies up through a starry night sky",
  "words <img id=evil src=x onerror=\"globalThis.owned = true\"> & 'quotes'",
];
const LOOKS = ["testsrc2", "mandelbrot", "smptehdbars", "rgbtestsrc"];

export async function madeUpDescription(folder: string, store: Store): Promise<Description> {
  const clips = await Promise.all(
    LOOKS.map((look, i) =>
      makeClip(join(folder, `clip ${i} & more.mp4`), [{ source: `${look}=s=64x64:r=8`, seconds: 2 }], {
        size: "64x64",
        fps: 8,
      }),
    ),
  );
  const large = await Promise.all(
    LOOKS.map((look, i) =>
      makeClip(join(folder, `large-${i}.mp4`), [{ source: `${look}=s=128x128:r=8`, seconds: 2 }], {
        size: "128x128",
        fps: 8,
      }),
    ),
  );
  const film = await makeClip(join(folder, "film.mp4"), [{ source: "testsrc2=s=640x272:r=25", seconds: 3 }], {
    size: "640x272",
    fps: 25,
  });
  const image = join(folder, "given.png");
  await sharp({ create: { width: 64, height: 64, channels: 3, background: "#3d86e8" } })
    .png()
    .toFile(image);
  const clip = (i: number): string => clips[i % clips.length] as string;
  const wide = (i: number): string => large[i % large.length] as string;
  const digest = await ancestry(folder, store);
  return Description.parse({
    title: "Waver quick start",
    createdAt: "21 November 2026, 12:30",
    verdict: {
      tone: "mixed",
      headline: "The model makes the clips it was asked for; its refiner is not there yet",
      sentences: [
        "27 of 36 generated clips are nearest to the clip they were asked for (chance: 3).",
        "The refiner improved 3 of 6 held-out clips; 4 were asked for.",
      ],
    },
    figures: [
      { label: "time in all", value: "8 min 41 s", note: "2 cores" },
      { label: "highest memory", value: "2.1 GB" },
      { label: "prompt found again", value: "27 of 36", note: "chance: 3" },
      { label: "first frame kept", value: "23.4 dB", note: "required: 20" },
    ],
    sources: [
      ...PROMPTS.map((caption, i) => ({ file: clip(i), caption, note: "rendered" })),
      { file: film, start: 0.5, end: 2.5, caption: "a cyclist rides past a brick wall", note: "bikes.mp4, BSD" },
    ],
    funnel: {
      numIn: 25,
      rules: [
        { rule: "between 2 and 10 s", dropped: 2, kept: 23, why: "a clip must hold a whole movement" },
        { rule: "sharp enough", dropped: 3, kept: 20 },
        { rule: "well exposed", dropped: 0, kept: 20 },
        { rule: "moves", dropped: 1, kept: 19 },
        { rule: "not seen before", dropped: 2, kept: 17 },
      ],
      dropped: [
        { name: "bikes.mp4 0:00.0-0:01.2", rule: "between 2 and 10 s", why: "1.2 s" },
        { name: "carphone.mp4", rule: "sharp enough", why: "sharpness 12 is below 40" },
      ],
    },
    curves: ["Text to image", "Text and image to video", "Refiner"].map((name, stage) =>
      curve(name, 400 + 300 * stage),
    ),
    textToVideo: PROMPTS.map((prompt, i) => ({
      prompt,
      training: { file: clip(i), caption: prompt },
      samples: [1, 2, 3].map((seed) => ({
        file: clip(seed === 3 ? i + 1 : i),
        seed,
        nearest: {
          caption: PROMPTS[(seed === 3 ? i + 1 : i) % 4],
          isPrompted: seed !== 3,
          similarity: 0.93 - seed / 50,
          clip: { file: clip(seed === 3 ? i + 1 : i) },
        },
        ...(seed === 1 ? { refined: wide(i) } : {}),
      })),
    })),
    textToImage: PROMPTS.map((prompt) => ({ prompt, samples: [{ file: image, seed: 1 }] })),
    imageToVideo: PROMPTS.map((prompt, i) => ({ prompt, image, file: clip(i), seed: 1, firstFramePsnr: 22.4 + i })),
    heldOut: PROMPTS.map((caption, i) => ({
      caption,
      low: wide(i),
      refined: wide(i),
      high: wide(i),
      distanceLow: 0.41,
      distanceRefined: 0.35 + i * 0.05,
    })),
    measures: [
      {
        name: "Memorisation",
        meaning:
          "generated clips whose nearest training clip, in EfficientNet-Lite0 features (a substitute for CLIP), is the prompted one",
        value: 27,
        unit: "of 36",
        chance: 3,
        required: "at least 9",
        goal: "24",
        isReached: true,
      },
      {
        name: "First frame kept",
        meaning: "mean PSNR of the first decoded frame against the VAE's own reconstruction of the given image",
        value: 23.41,
        unit: "dB",
        required: "over 20 dB",
        isReached: true,
      },
      {
        name: "Refined latents nearer",
        meaning: "held-out clips whose refined latent lies nearer (L2) to the high-resolution latent",
        value: 3,
        unit: "of 6",
        chance: 3,
        required: "at least 4",
        isReached: false,
        remark: "Tried: 600 steps instead of 300, which gave 3 as well.",
      },
      {
        name: "Motion",
        meaning:
          "mean change between frames, as a share of the training clips' (frame difference, a substitute for optical flow)",
        value: 0.871,
      },
    ],
    best: { digest, file: clip(0), caption: PROMPTS[0] },
    stages: [
      { name: "Curate", operation: "curate", seconds: 21.4, peakBytes: 4.1e8, isReused: false },
      { name: "Train on images", operation: "train", seconds: 88, peakBytes: 1.3e9, isReused: true },
      { name: "Train on video", operation: "train", seconds: 241.2, peakBytes: 2.1e9, isReused: false },
      { name: "Generate", operation: "generate", seconds: 77, peakBytes: 1.4e9, isReused: false },
    ],
    totalSeconds: 521,
    versions: { waver: "0.1.0", bun: "1.4.5", libtorch: "2.14.0", ffmpeg: "5.1" },
    shortcomings: ["The refiner's measure was not reached.", "More than one GPU was never used."],
  });
}

function curve(name: string, numSteps: number): unknown {
  const steps = Array.from({ length: numSteps }, (_, i) => i + 1);
  return {
    name,
    summary: "AdamW, batch 16",
    numSteps,
    steps,
    losses: steps.map(
      (step) => 0.35 + 0.9 * Math.exp(-step / (numSteps / 6)) + 0.12 * Math.sin(step * 12.9898) * Math.cos(step * 4.1),
    ),
  };
}

/** Five artefacts, each made of the one before and the last of two. */
async function ancestry(folder: string, store: Store): Promise<Digest> {
  let last: { role: string; digest: Digest }[] = [];
  for (const [i, [kind, role, operation]] of (
    [
      ["source", "source", "ingest"],
      ["set", "set", "curate"],
      ["checkpoint", "checkpoint", "train"],
      ["checkpoint", "checkpoint", "merge"],
      ["video", "video", "generate"],
    ] as const
  ).entries()) {
    const file = join(folder, `artefact-${i}`);
    await writeFile(file, `${kind} ${i}`);
    const digest = await store.publish(file, {
      kind,
      name: `${kind} ${i + 1}`,
      inputs: last,
      by: { operation, version: "0.1.0" },
      options: { steps: 100 * i, shift: 3, note: "plain" },
      seed: i,
    });
    last = [...(i === 3 ? last : []), { role, digest }].slice(-2);
  }
  return (last.at(-1) as { digest: Digest }).digest;
}
