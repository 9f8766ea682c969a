import { expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, noGrad, randint, scope, tensor, zeros } from "../../native/index.ts";
import { WanVae } from "../wan-vae/codec.ts";
import { VaeConfig } from "../wan-vae/params.ts";
import { CropSource } from "./crops.ts";
import { klDivergence } from "./objective.ts";
import { evaluatePsnr, latentStatistics, sampleClips, trainVae } from "./train.ts";

const tiny = VaeConfig.parse({
  base_dim: 8,
  z_dim: 4,
  dim_mult: [1, 1],
  num_res_blocks: 1,
  temperal_downsample: [true],
  latents_mean: [0, 0, 0, 0],
  latents_std: [1, 1, 1, 1],
  is_residual: true,
  in_channels: 12,
  out_channels: 12,
  patch_size: 2,
});

test("the KL of a unit Gaussian is zero and grows with mean and width as the formula says", () => {
  scope(() => {
    expect(klDivergence(zeros([2, 3]), zeros([2, 3])).item()).toBe(0);
    // 0.5 (mu^2 + e^lv - 1 - lv) at mu 2, lv 1
    expect(klDivergence(tensor([2]), tensor([1])).item()).toBeCloseTo(0.5 * (4 + Math.E - 2), 5);
  });
});

test("crops keep their size and range, pan over stills and repeat with the seed", () => {
  using random = new Generator(3);
  using still = randint(0, 256, [1, 3, 80, 120], { generator: random, dtype: "uint8" });
  using source = new CropSource(still, "cpu");
  const [a, b] = [
    sampleClips([source], 2, { frames: 5, side: 32, seed: 9 }),
    sampleClips([source], 2, { frames: 5, side: 32, seed: 9 }),
  ];
  scope(() => {
    for (const [i, clip] of a.entries()) {
      expect(clip.shape).toEqual([1, 3, 5, 32, 32]);
      expect(clip.abs().max().item()).toBeLessThanOrEqual(1);
      expect(
        clip
          .sub(b[i] as typeof clip)
          .abs()
          .max()
          .item(),
      ).toBe(0);
      // a still that pans is not the same picture five times
      expect(
        clip
          .narrow(2, 0, 1)
          .sub(clip.narrow(2, 4, 1))
          .abs()
          .mean()
          .item(),
      ).toBeGreaterThan(0.01);
    }
  });
  for (const clip of [...a, ...b]) clip.dispose();
});

test("a few dozen steps on one flat clip raise its PSNR, and the statistics normalise its latents", async () => {
  using random = new Generator(1);
  const codec = WanVae.init(tiny, random, { device: "cpu" });
  using frames = scope(() => zeros([8, 3, 40, 40], { dtype: "uint8" }).add(200));
  using source = new CropSource(frames, "cpu");
  const clips = sampleClips([source], 4, { frames: 5, side: 16, seed: 2 });
  const before = evaluatePsnr(codec, clips);
  const seen: number[] = [];
  await trainVae(
    codec,
    [{ source, weight: 1 }],
    {
      steps: 30,
      lr: 3e-3,
      warmup: 5,
      batches: [{ share: 1, size: 2, frames: 5, side: 16 }],
      weights: { l1: 1, perceptual: 0, kl: 1e-4 },
      perceptualFrom: 0,
      maxStride: 1,
      whole: 0.5,
      gradNorm: 1,
      ema: 0.8,
      matmul: "float32",
      seed: 4,
    },
    { device: "cpu", report: ({ step }) => seen.push(step), breathe: async () => undefined },
  );
  expect(seen).toEqual([0, 10, 20]);
  expect(evaluatePsnr(codec, clips)).toBeGreaterThan(before + 3);
  const { mean, std } = latentStatistics(codec, clips);
  codec.setStatistics(mean, std);
  scope(() =>
    noGrad(() =>
      expect(
        Math.abs(
          codec
            .encode(clips[0] as (typeof clips)[0])
            .mean()
            .item(),
        ),
      ).toBeLessThan(0.5),
    ),
  );
  for (const clip of clips) clip.dispose();
  await codec[Symbol.asyncDispose]();
});

test("training that was stopped goes on to the very same weights", async () => {
  using random = new Generator(1);
  using frames = scope(() => randint(0, 256, [6, 3, 32, 32], { generator: random, dtype: "uint8" }));
  using source = new CropSource(frames, "cpu");
  const resumeFile = join(mkdtempSync(join(tmpdir(), "waver-vae-")), "state.safetensors");
  const run = async (stopAt: number | null, resume: boolean): Promise<string> => {
    using fresh = new Generator(7);
    const codec = WanVae.init(tiny, fresh, { device: "cpu" });
    const recipe = {
      steps: 8,
      lr: 3e-3,
      warmup: 2,
      batches: [{ share: 1, size: 1, frames: 5, side: 16 }],
      weights: { l1: 1, perceptual: 0, kl: 1e-4 },
      perceptualFrom: 0,
      maxStride: 1,
      whole: 0.5,
      gradNorm: 1,
      ema: 0.8,
      matmul: "float32",
      seed: 4,
    } as const;
    const stop = new Error("stopped");
    await trainVae(codec, [{ source, weight: 1 }], recipe, {
      device: "cpu",
      report: () => undefined,
      saveEveryMs: 0,
      ...(resume ? { resumeFile } : {}),
      async breathe(step) {
        if (step === stopAt) throw stop;
      },
    }).catch((error: unknown) => {
      if (error !== stop) throw error;
    });
    const hash = new Bun.CryptoHasher("sha256");
    scope(() => {
      for (const [, weight] of codec.module.namedParameters()) hash.update(weight.bytes());
    });
    await codec[Symbol.asyncDispose]();
    return hash.digest("hex");
  };
  const straight = await run(null, false);
  await run(5, true);
  expect(await run(null, true)).toBe(straight);
});
