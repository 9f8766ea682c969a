import { expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import {
  Generator,
  noGrad,
  packedImages,
  preprocessImages,
  saveSafetensors,
  scope,
  setThreads,
  tensor,
  unit,
} from "../../native/index.ts";
import { makeClip } from "../../test/support/clips.ts";
import { testContext } from "../../test/support/context.ts";
import type { FrameBatch } from "../index.ts";
import { imageSettings, loadClip } from "./checkpoint.ts";
import { ClipJudge } from "./judge.ts";
import { Clip } from "./model.ts";
import { ClipConfig } from "./params.ts";
import { ClipTokenizer } from "./tokenizer.ts";

setThreads(1);

const vocab = Object.fromEntries(
  [..."abdehlrt", ...[..."abdehlrt"].map((letter) => `${letter}</w>`), "<|startoftext|>", "<|endoftext|>"].map(
    (piece, i) => [piece, i],
  ),
);
const tower = { hidden_size: 24, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 3 };
const config = {
  model_type: "clip",
  projection_dim: 10,
  vision_config: { ...tower, image_size: 28, patch_size: 7 },
  text_config: { ...tower, vocab_size: 20, max_position_embeddings: 9, eos_token_id: vocab["<|endoftext|>"] },
};
const folder = mkdtempSync(join(tmpdir(), "clip-judge-"));
writeFileSync(join(folder, "config.json"), JSON.stringify(config));
writeFileSync(join(folder, "vocab.json"), JSON.stringify(vocab));
writeFileSync(join(folder, "merges.txt"), "#version: 0.2\n");
{
  using generator = new Generator(4);
  using model = new Clip(ClipConfig.parse(config)).init(generator);
  saveSafetensors(join(folder, "model.safetensors"), model.stateDict());
}

const size = 30;
const numbers = size * size * 3;
const batch = (...seeds: number[]): FrameBatch => ({
  data: Uint8Array.from(seeds.flatMap((seed) => Array.from({ length: numbers }, (_, i) => (i * seed) % 251))),
  count: seeds.length,
  width: size,
  height: size,
  format: "rgb24",
  times: seeds.map((_, i) => i),
});
async function* stream(...batches: FrameBatch[]): AsyncGenerator<FrameBatch> {
  yield* batches;
}
const breathing = { breathe: async () => undefined };

test("measures are cosines of the embeddings, however frames come in", async () => {
  using judge = ClipJudge.load(folder, { device: "cpu" });
  const prompt = "a red ball rather larger than all that";
  const scores = await judge.judge(prompt, stream(batch(3, 7), batch(11)), breathing);
  const apart = await judge.judge(prompt, stream(batch(3), batch(7), batch(11)), breathing);
  using model = loadClip(folder, { device: "cpu" }).model;
  const want = scope(() =>
    noGrad(() => {
      const pixels = preprocessImages(
        packedImages(batch(3, 7, 11)),
        imageSettings(folder, ClipConfig.parse(config).vision),
      );
      const images = unit(model.embedImages(pixels));
      // cut to the nine tokens that this model reads
      const ids = ClipTokenizer.load(folder).encode(prompt, 9);
      const text = unit(model.embedTexts(tensor([ids], { dtype: "int64" })));
      const [a, b, c] = images.unbind(0);
      return {
        cosines: images.matmul(text.transpose(0, 1)).toNumbers(),
        steps: [
          a
            ?.mul(b as never)
            .sum()
            .item() as number,
          b
            ?.mul(c as never)
            .sum()
            .item() as number,
        ],
      };
    }),
  );
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  for (const each of [scores, apart]) {
    expect(each["textSimilarity"]).toBeCloseTo(mean(want.cosines), 5);
    expect(each["clipScore"]).toBeCloseTo(mean(want.cosines.map((value) => 2.5 * Math.max(0, value))), 5);
    expect(each["frameConsistency"]).toBeCloseTo(mean(want.steps), 5);
  }
});

test("what cannot be measured is left out", async () => {
  using judge = ClipJudge.load(folder, { device: "cpu" });
  expect(Object.keys(await judge.judge("a red ball", stream(batch(3)), breathing)).sort()).toEqual([
    "clipScore",
    "textSimilarity",
  ]);
  expect(Object.keys(await judge.judge("  ", stream(batch(3, 5)), breathing))).toEqual(["frameConsistency"]);
  await expect(judge.judge("a", stream(), breathing)).rejects.toThrow(/without frames/);
});

test("the evaluator judges videos and pictures, and refuses without weights", async () => {
  await using ctx = await testContext({ plugins: ["clip"], config: { clip: { path: folder } } });
  const video = await makeClip(join(ctx.home, "a.mp4"), [{ source: "testsrc2=s=64x64:r=8", seconds: 1 }]);
  const image = join(ctx.home, "b.png");
  await sharp({ create: { width: 40, height: 30, channels: 3, background: "#804020" } })
    .png()
    .toFile(image);
  const evaluate = await ctx.use("evaluate", "clip");
  const items = [
    { id: "v", video, prompt: "a bar", task: "t2v" as const },
    { id: "i", video: image, prompt: "a red", task: "t2i" as const },
  ];
  const { summary, items: judged } = await evaluate({ items, references: [] });
  expect(Object.keys(judged["v"] as object).sort()).toEqual(["clipScore", "frameConsistency", "textSimilarity"]);
  expect(Object.keys(judged["i"] as object).sort()).toEqual(["clipScore", "textSimilarity"]);
  expect(summary["numItems"]).toBe(2);
  const both = [judged["v"], judged["i"]].map(
    (scores) => (scores as Record<string, number>)["textSimilarity"] as number,
  );
  expect(summary["textSimilarity"]).toBeCloseTo(((both[0] as number) + (both[1] as number)) / 2, 6);
  expect(summary["frameConsistency"]).toBe((judged["v"] as Record<string, number>)["frameConsistency"] as number);
  await expect(evaluate({ items: [], references: [] })).rejects.toThrow(/nothing to judge/);
  await using bare = await testContext({ plugins: ["clip"] });
  await expect(bare.use("evaluate", "clip")).rejects.toThrow("no weights of CLIP are configured");
});
