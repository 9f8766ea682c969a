import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import nano from "../../configs/nano/vae.json";
import {
  cat,
  type DType,
  Generator,
  grad,
  noGrad,
  outline,
  randn,
  scope,
  setThreads,
  type Tensor,
  zeros,
} from "../../native/index.ts";
import { WanVae } from "./codec.ts";
import { VaeConfig } from "./params.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const statistics = { latents_mean: [0.1, -0.2], latents_std: [0.5, 2] };
const small = { base_dim: 4, z_dim: 2, num_res_blocks: 1, ...statistics };
/** Both forms, at sizes that take milliseconds. */
const forms: Record<string, VaeConfig> = {
  "Wan 2.1": VaeConfig.parse({ ...small, dim_mult: [1, 2, 4], temperal_downsample: [true, true] }),
  "Wan 2.2": VaeConfig.parse({
    ...small,
    dim_mult: [1, 2, 2],
    temperal_downsample: [true, true],
    is_residual: true,
    patch_size: 2,
    in_channels: 12,
    out_channels: 12,
  }),
  "time in one level only": VaeConfig.parse({ ...small, dim_mult: [1, 2, 4], temperal_downsample: [false, true] }),
};
const make = (config: VaeConfig, more: { perChunk?: number; dtype?: DType } = {}): WanVae => {
  using generator = new Generator(7);
  return WanVae.init(config, generator, { device: "cpu", ...more });
};
const noise = (shape: number[], seed = 1): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
const distance = (a: Tensor, b: Tensor): number => scope(() => a.sub(b).abs().max().item() / b.abs().max().item());

describe.each(Object.entries(forms))("%s", (_name, config) => {
  const stride = 2 ** config.temperal_downsample.filter(Boolean).length;
  const numFrames = 1 + 4 * stride;

  test.each(["float32", "bfloat16"] as const)(
    "in %s a clip in chunks of any length is the clip at once, to the bit",
    async (dtype) => {
      for (const [numLatents, batch] of [
        [5, 2],
        [4, 1],
        [1, 1],
      ] as const) {
        await using vae = make(config, { dtype });
        const frames = 1 + (numLatents - 1) * stride;
        using video = noise([batch, 3, frames, 16, 24]);
        using latents = noise([batch, 2, numLatents, 16 / vae.latent.stride[1], 24 / vae.latent.stride[2]]);
        using mean = noGrad(() => vae.encode(video));
        using decoded = noGrad(() => vae.decode(latents));
        expect(decoded.shape).toEqual([batch, 3, frames, 16, 24]);
        for (const perChunk of [1, 2, 3, 7]) {
          await using chunked = make(config, { dtype, perChunk });
          using mean2 = noGrad(() => chunked.encode(video));
          using decoded2 = noGrad(() => chunked.decode(latents));
          expect(distance(mean2, mean)).toBe(0);
          expect(distance(decoded2, decoded)).toBe(0);
          const parts = noGrad(() => [...chunked.decodeChunks(latents)]);
          using together = cat(parts, 2);
          expect(parts.map((part) => part.size(2))).toEqual([
            1,
            ...chunks(numLatents - 1, perChunk).map((n) => n * stride),
          ]);
          expect(distance(together, decoded)).toBe(0);
          for (const part of parts) part.dispose();
        }
      }
    },
  );

  test("a decode that was left goes on to the bit, in chunks of another length", async () => {
    await using vae = make(config);
    await using other = make(config, { perChunk: 2 });
    using latents = noise([1, 2, 6, 16 / vae.latent.stride[1], 24 / vae.latent.stride[2]]);
    using decoded = noGrad(() => vae.decode(latents));
    for (const left of [1, 2, 4]) {
      const before: Tensor[] = [];
      using decoder = noGrad(() => vae.decoder(latents));
      for (let i = 0; i < left; i++) before.push(noGrad(() => decoder.next()) as Tensor);
      using rest = scope(() => noGrad(() => other.decoder(latents, decoder.memory())));
      const after: Tensor[] = [];
      for (;;) {
        const next = noGrad(() => rest.next());
        if (next === undefined) break;
        after.push(next);
      }
      using together = cat([...before, ...after], 2);
      expect(together.shape).toEqual(decoded.shape);
      expect(distance(together, decoded)).toBe(0);
      for (const part of [...before, ...after]) part.dispose();
    }
  });

  test("a pass for gradients sees the whole clip at once, and the same", async () => {
    await using vae = make(config);
    using video = noise([2, 3, numFrames, 16, 24]);
    using quick = noGrad(() => vae.encode(video));
    using whole = vae.encode(video);
    using decoded = noGrad(() => vae.decode(quick));
    using again = vae.decode(quick);
    // both norms work in float32 and round in another order, two dozen norms deep; so do convolutions of another length
    expect(distance(quick, whole)).toBeLessThan(1e-5);
    expect(distance(decoded, again)).toBeLessThan(1e-5);
  });

  test("gradients reach every weight, and are those of the chunked pass", async () => {
    await using vae = make(config);
    await using chunked = make(config, { perChunk: 1 });
    using video = noise([1, 3, 1 + 2 * stride, 16, 16]);
    const gradients = [vae, chunked].map((model) =>
      scope(() => {
        model.module.requiresGrad_();
        const { mean, logvar } = model.posterior(video);
        const loss = model
          .reconstruct(mean.add(logvar.mul(0.5).exp()))
          .sub(video)
          .square()
          .mean();
        return grad(loss, model.module.parameters());
      }),
    );
    const names = Array.from(vae.module.namedParameters(), ([name]) => name);
    const [whole, parts] = gradients as [Tensor[], Tensor[]];
    for (const [i, name] of names.entries()) {
      expect([name, scope(() => (whole[i] as Tensor).abs().max().item()) > 0]).toEqual([name, true]);
      expect(distance(parts[i] as Tensor, whole[i] as Tensor)).toBeLessThan(1e-4);
    }
    for (const tensor of gradients.flat()) tensor.dispose();
  });
});

const chunks = (count: number, per: number): number[] =>
  Array.from({ length: Math.ceil(count / per) }, (_, i) => Math.min(per, count - i * per));

describe("the codec", () => {
  test("saves what it loads, in half the bytes when asked", async () => {
    const config = forms["Wan 2.2"] as VaeConfig;
    await using vae = make(config);
    const folder = mkdtempSync(join(tmpdir(), "vae-"));
    await vae.save(folder);
    await using again = WanVae.load(folder, { device: "cpu" });
    expect(again.config).toEqual(config);
    using video = noise([1, 3, 5, 16, 16]);
    using a = vae.encode(video);
    using b = again.encode(video);
    expect(distance(b, a)).toBe(0);
    await vae.save(folder, { dtype: "bfloat16" });
    await using half = WanVae.load(folder, { device: "cpu", dtype: "float32" });
    using c = half.encode(video);
    expect(distance(c, a)).toBeLessThan(0.05);
  });

  test("normalises with the statistics it is given", async () => {
    await using vae = make(forms["Wan 2.1"] as VaeConfig);
    using latents = noise([1, 2, 2, 2, 2]);
    vae.setStatistics([1, 2], [3, 4]);
    using there = vae.normalise(latents);
    using back = vae.denormalise(there);
    expect(distance(back, latents)).toBeLessThan(1e-6);
    expect(scope(() => there.select(1, 0).mul(3).add(1).sub(latents.select(1, 0)).abs().max().item())).toBeLessThan(
      1e-6,
    );
  });

  test("memory does not grow with the clip, nor with how many frames are handed out", async () => {
    const peak = (vae: WanVae, numLatents: number): number =>
      scope(() => {
        const latents = zeros([1, 2, numLatents, 16, 16], { device: "meta" });
        return outline("cpu", () => {
          for (const chunk of vae.decodeChunks(latents)) chunk.dispose();
        }).peakBytes;
      });
    using generator = new Generator(7);
    await using vae = WanVae.init(forms["Wan 2.1"] as VaeConfig, generator, { device: "meta" });
    const latents = 2 * 16 * 16 * 4;
    expect(peak(vae, 33) - peak(vae, 3)).toBeLessThanOrEqual(2 * 30 * latents); // as given, and not normalised
    // x, what is in front of the convolution, and its result; two frames of the past in front of each of six convolutions
    const widest = 4 * 4 * 64 * 64 * 4;
    expect(peak(vae, 3)).toBeLessThan(10.5 * widest);
    expect(peak(vae, 1)).toBeLessThan((6 * widest) / 4); // one frame; three before a convolution
  });

  test("a checkpoint that does not fit is refused by name", async () => {
    await using vae = make(forms["Wan 2.1"] as VaeConfig);
    const folder = mkdtempSync(join(tmpdir(), "vae-"));
    await vae.save(folder);
    await Bun.write(join(folder, "config.json"), JSON.stringify({ ...forms["Wan 2.1"], num_res_blocks: 2 }));
    expect(() => WanVae.load(folder, { device: "cpu" })).toThrow(/missing.*down_blocks/);
    expect(() => WanVae.load(join(folder, "none"), { device: "cpu" })).toThrow(/there is no VAE at/);
  });

  test("the nano configuration has the size that ships", async () => {
    await using vae = make(VaeConfig.parse(nano));
    expect(vae.module.numParameters()).toBe(2_680_764);
    expect(vae.latent).toEqual({ channels: 16, stride: [4, 8, 8] });
  });
});
