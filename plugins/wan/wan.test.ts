import { describe, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  Generator,
  grad,
  keep,
  noGrad,
  randn,
  scope,
  setThreads,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import type { Codec } from "../index.ts";
import { checkPlugin, failures } from "../testing.ts";
import { WanDenoiser, weightBytes } from "./denoiser.ts";
import plugin from "./index.ts";
import { WanConfig } from "./params.ts";

setThreads(1);
const config = WanConfig.parse({
  num_attention_heads: 2,
  attention_head_dim: 12,
  in_channels: 4,
  out_channels: 4,
  text_dim: 8,
  freq_dim: 16,
  ffn_dim: 20,
  num_layers: 2,
});
const make = (more: Partial<WanConfig> = {}): WanDenoiser => {
  using generator = new Generator(5);
  return WanDenoiser.init({ ...config, ...more }, generator, { device: "cpu", textLength: 6 });
};
const noise = (shape: number[], seed = 1): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
const input = (channels = 4) => ({
  latents: noise([2, channels, 3, 4, 6]),
  t: tensor([0.3, 0.9]),
  text: { states: noise([2, 6, 8], 2), mask: tensor([[true], [true]]) },
});

test("the plugin keeps the contract", async () => expect(failures(await checkPlugin(plugin))).toEqual([]));

describe("the denoiser", () => {
  test("has the shape of its latents, and taps that a loss may ask for", async () => {
    await using denoiser = make();
    scope(() => {
      const taps = new Map<string, Tensor>();
      const velocity = noGrad(() => denoiser.forward(input(), taps));
      expect(velocity.shape).toEqual([2, 4, 3, 4, 6]);
      expect([...taps.keys()]).toEqual([...denoiser.taps]);
      expect(taps.get("blocks.1")?.shape).toEqual([2, 18, 24]);
    });
  });

  test("reads the flow time in thousandths, as float32 or float64", async () => {
    await using denoiser = make();
    scope(() => {
      const given = input();
      const [a, b] = [given.t, given.t.to("float64")].map((t) => noGrad(() => denoiser.forward({ ...given, t }))) as [
        Tensor,
        Tensor,
      ];
      expect(allClose(a, b, { atol: 1e-4 })).toBe(true);
      const later = noGrad(() => denoiser.forward({ ...given, t: tensor([0.9, 0.3]) }));
      expect(allClose(a, later, { atol: 1e-4 })).toBe(false);
    });
  });

  test("gradients reach every weight", async () => {
    await using denoiser = make();
    denoiser.module.requiresGrad_();
    scope(() => {
      const loss = denoiser.forward(input()).square().mean();
      for (const [i, gradient] of grad(loss, denoiser.module.parameters()).entries())
        expect([[...denoiser.module.namedParameters()][i]?.[0], gradient.abs().max().item() > 0]).toEqual([
          expect.any(String),
          true,
        ]);
    });
  });

  test("is saved and loaded, in bfloat16 with its float32 islands", async () => {
    const folder = mkdtempSync(join(tmpdir(), "wan-"));
    await using denoiser = make();
    await denoiser.save(folder);
    await using again = WanDenoiser.load(folder, { device: "cpu", textLength: 6 });
    await using half = WanDenoiser.load(folder, { device: "cpu", dtype: "bfloat16", textLength: 6 });
    expect([half.module.proj_out.weight.dtype, half.module.scale_shift_table.dtype]).toEqual(["bfloat16", "float32"]);
    expect(weightBytes(folder)).toBe(denoiser.module.bytes("float32"));
    expect(weightBytes(folder, "bfloat16")).toBe(
      [...half.module.namedWeights()].reduce((sum, [, weight]) => sum + weight.bytesAs(weight.dtype), 0),
    );
    scope(() => {
      const [a, b, c] = [denoiser, again, half].map((each) => noGrad(() => each.forward(input()))) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      const saved = again.module.stateDict();
      for (const [name, weight] of denoiser.module.stateDict())
        expect([name, allClose(weight, saved.get(name) as Tensor, { rtol: 0, atol: 0 })]).toEqual([name, true]);
      expect(allClose(a, b, { atol: 1e-5 })).toBe(true); // a loaded one may pack its weights: sums in another order
      expect(allClose(a, c, { atol: 0.1 })).toBe(true);
    });
  });

  test("known frames are where they were given, grey is elsewhere", async () => {
    await using plain = make();
    expect(plain.condition).toBeUndefined();
    await using denoiser = make({ in_channels: 12 });
    scope(() => {
      const frames = noise([1, 3, 9, 4, 4]);
      const seen: Tensor[] = [];
      const codec = {
        latent: { channels: 4, stride: [4, 1, 1] },
        encode(video: Tensor) {
          seen.push(keep(video.clone()));
          return video.narrow(2, 0, 3).narrow(1, 0, 1).repeat([1, 4, 1, 1, 1]);
        },
      } as unknown as Codec;
      const isKnown = [true, ...Array<boolean>(7).fill(false), true];
      const { latents, mask } = (denoiser.condition as NonNullable<typeof denoiser.condition>)(frames, isKnown, codec);
      using video = seen[0] as Tensor;
      expect(allClose(video.select(2, 0), frames.select(2, 0))).toBe(true);
      expect(video.narrow(2, 1, 7).abs().max().item()).toBe(0);
      // the first frame is all of latent frame 0, the last one a quarter of latent frame 2
      expect(mask.select(4, 0).select(3, 0).squeeze(0).transpose(0, 1).toNumbers()).toEqual([
        1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1,
      ]);
      expect(
        noGrad(() =>
          denoiser.forward({
            ...input(),
            latents: noise([1, 4, 3, 4, 4]),
            t: tensor([0.5]),
            text: { states: noise([1, 6, 8]), mask: tensor([[true]]) },
            known: { latents, mask },
          }),
        ).shape,
      ).toEqual([1, 4, 3, 4, 4]);
      expect(() => denoiser.forward(input())).toThrow(/continues an image/);
    });
  });
});
