import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { z } from "zod";
import {
  avgPool3d,
  cat,
  full,
  interpolate,
  liveTensors,
  Module,
  saveSafetensors,
  scope,
  type Tensor,
} from "../../native/index.ts";
import { makeClip } from "../../test/support/clips.ts";
import { testContext } from "../../test/support/context.ts";
import { provide } from "../define.ts";
import type { WaverError } from "../errors.ts";
import type { Codec, EvalSet } from "../types.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-evaluate-"));
const looks = { bars: "smptehdbars", fractal: "mandelbrot", grid: "rgbtestsrc" } as const;
const file = (name: string): string => join(folder, name);
beforeAll(async () => {
  for (const [name, look] of Object.entries(looks)) {
    await makeClip(file(`${name}.mp4`), [{ source: `${look}=s=64x64:r=8`, seconds: 2 }], { size: "64x64", fps: 8 });
    await makeClip(file(`${name}-worn.mp4`), [{ source: `${look}=s=64x64:r=8`, seconds: 2 }], {
      size: "64x64",
      fps: 8,
      crf: 36,
    });
    await makeClip(file(`${name}-small.mp4`), [{ source: `${look}=s=64x64:r=8,scale=16:16,scale=64:64`, seconds: 2 }], {
      size: "64x64",
      fps: 8,
    });
  }
  await sharp({ create: { width: 128, height: 128, channels: 3, background: "#808080" } })
    .png()
    .toFile(file("grey.png"));
  await makeClip(file("grey.mp4"), [{ source: "color=0x808080:s=64x64:r=8", seconds: 2 }], { size: "64x64", fps: 8 });
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** An embedder that sees mean colours only, and a codec that keeps averages of 8 x 8 pixels. */
const colours = provide("embed", {
  id: "colours",
  summary: "mean colour of each quarter",
  runs: "worker",
  options: z.strictObject({}),
  traits: { view: { width: 2, height: 2, fit: "stretch", rate: 2, format: "rgb24", batch: 4 }, dim: 12 },
  async run({ frames }) {
    const sum = new Float32Array(12);
    for await (const { data, count } of frames)
      for (let i = 0; i < count * 12; i++) sum[i % 12] = (sum[i % 12] as number) + (data[i] as number) - 100;
    const length = Math.hypot(...sum);
    return sum.map((value) => value / length);
  },
});
const averages: Codec = {
  module: new Module(),
  latent: { channels: 3, stride: [4, 8, 8] },
  posterior: (video) => ({ mean: averages.encode(video), logvar: averages.encode(video) }),
  encode: (video) => {
    const pooled = (part: Tensor, frames: number): Tensor => avgPool3d(part, [frames, 8, 8]);
    const rest = video.size(2) - 1;
    return rest === 0
      ? pooled(video, 1)
      : cat([pooled(video.narrow(2, 0, 1), 1), pooled(video.narrow(2, 1, rest), 4)], 2);
  },
  decode: (latents) =>
    interpolate(latents, {
      size: [1 + (latents.size(2) - 1) * 4, latents.size(3) * 8, latents.size(4) * 8],
      mode: "nearest",
    }),
  decodeChunks: (latents) => [averages.decode(latents)],
  [Symbol.asyncDispose]: async () => undefined,
};
const codec = provide("codec", {
  id: "averages",
  summary: "averages",
  runs: "device",
  options: z.strictObject({}),
  traits: { classes: [], latent: "averages" },
  run: async () => averages,
});
const context = () => testContext({ plugins: ["evaluate-clips"], provide: [colours, codec] });

const references = Object.keys(looks).map((name) => ({ id: name, video: file(`${name}.mp4`), caption: `a ${name}` }));
const item = (id: string, video: string, prompt: string): EvalSet["items"][number] => ({
  id,
  video: file(video),
  prompt,
  task: "t2v",
});

test("clips are judged by what they are nearest to", async () => {
  await using ctx = await context();
  const judge = await ctx.use("evaluate", "clips");
  const { summary, items, notes } = await judge({
    items: [
      { ...item("right", "bars-worn.mp4", "a bars"), reference: file("bars.mp4") },
      item("wrong", "fractal-worn.mp4", "a bars"),
      item("still", "grey.mp4", "a grey"),
    ],
    references,
  });
  expect(items["right"]).toMatchObject({ memorised: 1, promptedRank: 1 });
  expect(items["right"]!["psnr"]).toBeGreaterThan(25);
  expect(items["right"]!["ssim"]).toBeGreaterThan(0.8);
  expect(items["wrong"]).toMatchObject({ memorised: 0 });
  expect(notes["wrong"]).toBe("fractal");
  expect(items["still"]!["motion"]).toBeLessThan(0.05);
  expect(summary).toMatchObject({ numItems: 3, numMemorised: 1 });
  expect(summary["memorisedChance"]).toBeCloseTo(2 / 9, 10);
}, 60_000);

test("an image is a clip of one frame", async () => {
  await using ctx = await context();
  const { items } = await (await ctx.use("evaluate", "clips"))({
    items: [{ ...item("image", "grey.png", "a bars"), task: "t2i" }],
    references,
  });
  expect(items["image"]!["motion"]).toBe(0);
  expect(items["image"]!["nearestSimilarity"]).toBeNumber();
}, 60_000);

test("a finished judgement is not made again", async () => {
  await using ctx = await context();
  const set = { items: [item("right", "bars-worn.mp4", "a bars")], references };
  const judge = await ctx.use("evaluate", "clips");
  const first = await judge(set);
  expect(await judge(set)).toEqual(first);
  expect(ctx.units.done.length).toBe(1);
  expect(ctx.units.found.length).toBe(1);
}, 60_000);

test("the first frame is compared with what the codec keeps of the given image", async () => {
  await using ctx = await context();
  const before = liveTensors();
  const judge = await ctx.use("evaluate", "first-frame", { codec: { id: "averages" } });
  const { items, summary } = await judge({
    items: [
      { ...item("kept", "grey.mp4", "x"), task: "i2v", image: file("grey.png") },
      { ...item("lost", "bars.mp4", "x"), task: "i2v", image: file("grey.png") },
      item("other", "bars.mp4", "x"),
    ],
    references: [],
  });
  expect(items["kept"]!["firstFramePsnr"]).toBeGreaterThan(40);
  expect(items["lost"]!["firstFramePsnr"]).toBeLessThan(20);
  expect(Object.keys(items)).toEqual(["kept", "lost"]);
  expect(summary["numItems"]).toBe(2);
  expect(liveTensors()).toBe(before);
}, 60_000);

test("a refined clip is nearer to the truth than an enlarged one, or it is not", async () => {
  await using ctx = await context();
  const before = liveTensors();
  const judge = await ctx.use("evaluate", "refined-latents", { codec: { id: "averages" }, scale: 8 });
  const { items, summary } = await judge({
    items: [
      { ...item("good", "fractal-worn.mp4", "x"), reference: file("fractal.mp4") },
      { ...item("bad", "bars.mp4", "x"), reference: file("fractal.mp4") },
    ],
    references: [],
  });
  expect(items["good"]).toMatchObject({ refinedIsNearer: 1 });
  expect(items["bad"]).toMatchObject({ refinedIsNearer: 0 });
  expect(summary).toMatchObject({ numItems: 2, numNearer: 1 });
  expect(liveTensors()).toBe(before);
}, 60_000);

test("the refiner's own latents are taken when they are given", async () => {
  await using ctx = await context();
  const latents = file("latents.safetensors");
  // As large as a clip of 13 frames of 64 x 64 pixels, and equal to nothing.
  scope(() => saveSafetensors(latents, { latents: full([1, 3, 4, 8, 8], 7) }));
  const judge = await ctx.use("evaluate", "refined-latents", {
    codec: { id: "averages" },
    scale: 8,
    latents: { far: latents },
  });
  const set = (id: string) => ({
    items: [{ ...item(id, "fractal.mp4", "x"), reference: file("fractal.mp4") }],
    references: [],
  });
  expect((await judge(set("far"))).items["far"]!["distanceRefined"]).toBeGreaterThan(5);
  expect((await judge(set("near"))).items["near"]!["distanceRefined"]).toBeLessThan(0.01);
}, 60_000);

test("a refined clip is held to the very clip that was refined", async () => {
  await using ctx = await context();
  const latents = file("latents-7.safetensors");
  scope(() => saveSafetensors(latents, { latents: full([1, 3, 4, 8, 8], 7) }));
  const judge = await ctx.use("evaluate", "refined-latents", {
    codec: { id: "averages" },
    given: { same: file("fractal.mp4"), other: file("bars.mp4") },
    latents: { same: latents, other: latents },
  });
  const { items } = await judge({
    items: ["same", "other"].map((id) => ({ ...item(id, "fractal.mp4", "x"), reference: file("fractal.mp4") })),
    references: [],
  });
  // Nothing was lost in a given clip that is the truth itself.
  expect(items["same"]!["distanceEnlarged"]).toBeLessThan(0.01);
  expect(items["other"]!["distanceEnlarged"]).toBeGreaterThan(0.1);
}, 60_000);

test("a set with nothing to judge ends in a sentence", async () => {
  await using ctx = await context();
  const failures = [
    await (await ctx.use("evaluate", "clips"))({ items: [], references }).catch((error: unknown) => error),
    await (await ctx.use("evaluate", "first-frame", { codec: { id: "averages" } }))({
      items: [item("a", "bars.mp4", "x")],
      references,
    }).catch((error: unknown) => error),
    await (await ctx.use("evaluate", "clips", { embed: "nobody" }))({
      items: [item("a", "bars.mp4", "x")],
      references,
    }).catch((error: unknown) => error),
  ];
  expect(failures.map((failure) => (failure as WaverError).code)).toEqual([
    "invalid_input",
    "invalid_input",
    "needs_unmet",
  ]);
}, 60_000);
