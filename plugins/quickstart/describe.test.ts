import { expect, test } from "bun:test";
import { Description } from "../../plugins/report/description.ts";
import { describe } from "./describe.ts";
import type { Results } from "./results.ts";

const clip = (id: string) => ({ id, caption: `a ${id}`, video: `/c/${id}.mp4`, image: `/c/${id}.png` });
const results: Results = {
  sources: [{ file: "/v/a.mp4", start: 0, end: 2.5, caption: "a ball", note: "rendered" }],
  funnel: {
    numIn: 3,
    rules: [{ rule: "moves", dropped: 1, kept: 2 }],
    dropped: [{ name: "a.mp4", rule: "moves", why: "0.1 is below 0.5" }],
  },
  curves: [{ name: "Text to image", summary: "x", steps: [1, 2], losses: [1, 0.5], numSteps: 2 }],
  training: [clip("ball"), clip("boat")],
  textToVideo: [
    { id: "1", prompt: "a ball", seed: 1, file: "/g/1.mp4", digest: "sha256:1" },
    { id: "2", prompt: "a ball", seed: 2, file: "/g/2.mp4", digest: "sha256:2", refined: "/g/2r.mp4" },
    { id: "3", prompt: "a boat", seed: 1, file: "/g/3.mp4", digest: "sha256:3" },
  ],
  textToImage: [{ id: "4", prompt: "a ball", seed: 1, file: "/g/4.png" }],
  imageToVideo: [{ id: "5", prompt: "a ball", seed: 1, file: "/g/5.mp4", image: "/c/ball.png" }],
  heldOut: [
    {
      id: "held-out-1",
      caption: "a ball",
      low: "/h/l.mp4",
      high: "/h/h.mp4",
      refined: "/h/r.mp4",
      latents: "/h/r.safetensors",
    },
  ],
  judged: {
    clips: {
      summary: {
        numMemorised: 2,
        memorisedChance: 0.5,
        motion: 1,
        referenceMotion: 2,
        sharpness: 5,
        referenceSharpness: 10,
      },
      items: {
        "1": { memorised: 1, nearestSimilarity: 0.8, promptedSimilarity: 0.8 },
        "2": { memorised: 1, nearestSimilarity: 0.9, promptedSimilarity: 0.9 },
        "3": { memorised: 0, nearestSimilarity: 0.95, promptedSimilarity: 0.2 },
      },
      notes: { "1": "ball", "2": "ball", "3": "ball" },
    },
    firstFrame: { summary: { firstFramePsnr: 22, numItems: 1 }, items: { "5": { firstFramePsnr: 22 } }, notes: {} },
    refined: {
      summary: { numNearer: 1, numItems: 1, distanceEnlarged: 2, distanceRefined: 1 },
      items: { "held-out-1": { distanceEnlarged: 2, distanceRefined: 1 } },
      notes: {},
    },
  },
  vaePsnr: 25.2,
  names: { "sha256:9": "a.mp4" },
  stages: [{ name: "Train", operation: "train", seconds: 10, peakBytes: 2e9, isReused: false }],
  versions: { waver: "0.1.0" },
  shortcomings: ["More than one GPU was never used."],
};
const how = { isShort: false, createdAt: "today", totalSeconds: 75, cores: 2 };

test("results become a description that the report takes", () => {
  const { description } = describe(results, how);
  const parsed = Description.parse(JSON.parse(JSON.stringify(description)));
  expect(parsed.textToVideo.map(({ prompt, samples }) => [prompt, samples.length])).toEqual([
    ["a ball", 2],
    ["a boat", 1],
  ]);
  expect(parsed.textToVideo[1]?.training?.file).toBe("/c/boat.mp4");
  expect(parsed.textToVideo[1]?.samples[0]?.nearest).toMatchObject({ caption: "a ball", isPrompted: false });
  expect(parsed.imageToVideo[0]?.firstFramePsnr).toBe(22);
  expect(parsed.heldOut[0]).toMatchObject({ distanceLow: 2, distanceRefined: 1 });
  expect(parsed.figures.map(({ value }) => value)).toEqual(["1 min 15 s", "2.0 GB", "2", "2 of 3", "22.0 dB"]);
});

test("the best clip is the prompted one that is most like its training clip", () => {
  const { best, description } = describe(results, how);
  expect(best?.id).toBe("2");
  expect(description["best"]).toEqual({
    digest: "sha256:2",
    file: "/g/2r.mp4",
    caption: "a ball",
    names: { "sha256:9": "a.mp4" },
  });
});

test("parts that did not run leave no hole", () => {
  const { description, verdict } = describe(
    { ...results, heldOut: [], imageToVideo: [], judged: { clips: null, firstFrame: null, refined: null } },
    { ...how, isShort: true },
  );
  Description.parse(JSON.parse(JSON.stringify(description)));
  expect(verdict.measures.every(({ isReached }) => isReached === null)).toBe(true);
});
