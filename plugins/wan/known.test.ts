import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  cat,
  Generator,
  noGrad,
  ones,
  randn,
  scope,
  setThreads,
  type Tensor,
  tensor,
  zeros,
} from "../../native/index.ts";
import type { Codec, Denoiser } from "../index.ts";
import { WanVae } from "../wan-vae/codec.ts";
import { VaeConfig } from "../wan-vae/params.ts";
import { WanDenoiser } from "./denoiser.ts";
import { WanConfig } from "./params.ts";

setThreads(1);
const C = 6;
const config = WanConfig.parse({
  num_attention_heads: 2,
  attention_head_dim: 12,
  in_channels: C,
  out_channels: C,
  text_dim: 8,
  freq_dim: 16,
  ffn_dim: 20,
  num_layers: 2,
});
const noise = (shape: number[], seed: number): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
const fresh = (more: Partial<WanConfig> = {}, expandTimesteps?: boolean): WanDenoiser => {
  using generator = new Generator(5);
  return WanDenoiser.init({ ...config, ...more }, generator, { device: "cpu", textLength: 6, expandTimesteps });
};
/** Wan 2.2's form, small: residual, pixels folded by two. */
const vae = (): WanVae => {
  using generator = new Generator(7);
  return WanVae.init(
    VaeConfig.parse({
      base_dim: 4,
      z_dim: C,
      dim_mult: [1, 2, 2],
      num_res_blocks: 1,
      temperal_downsample: [true, true],
      is_residual: true,
      patch_size: 2,
      in_channels: 12,
      out_channels: 12,
      latents_mean: Array.from({ length: C }, (_, i) => i / 10),
      latents_std: Array.from({ length: C }, (_, i) => 1 + i / 10),
    }),
    generator,
    { device: "cpu" },
  );
};
const condition = (denoiser: Denoiser, frames: Tensor, known: readonly number[], codec: Codec) =>
  noGrad(() =>
    (denoiser.condition as NonNullable<typeof denoiser.condition>)(
      frames,
      Array.from({ length: frames.size(2) }, (_, i) => known.includes(i)),
      codec,
    ),
  );
const exactly = { rtol: 0, atol: 0 };

describe("a first frame in place of its noise", () => {
  test("is what diffusers feeds a Wan 2.2 TI2V with expand_timesteps", async () => {
    await using denoiser = fresh({}, true);
    await using codec = vae();
    expect([denoiser.tasks, denoiser.numImages]).toEqual([["t2i", "t2v", "i2v"], undefined]);
    scope(() => {
      const frames = noise([1, 3, 9, 40, 32], 1).clamp(-1, 1);
      const { latents, mask } = condition(denoiser, frames, [0], codec);
      expect([latents.shape, mask.shape]).toEqual([
        [1, C, 3, 5, 4],
        [1, 4, 3, 5, 4],
      ]);
      const known = { latents: latents.repeat([2, 1, 1, 1, 1]), mask: mask.repeat([2, 1, 1, 1, 1]) };
      const x = noise([2, C, 3, 5, 4], 2);
      const text = { states: noise([2, 6, 8], 3), mask: tensor([[true], [true]]) };
      // as in WanImageToVideoPipeline: the frame alone through the VAE, zero where it is in the mask, one elsewhere
      const first = noGrad(() => codec.encode(frames.narrow(2, 0, 1)));
      const keep = cat([zeros([1, 1, 1, 5, 4]), ones([1, 1, 2, 5, 4])], 2);
      const fed = keep.neg().add(1).mul(first).add(keep.mul(x));
      // rows and columns of a token are two; the fifth row is cut
      const t = tensor([0.5, 0.25]);
      const times = cat([zeros([1, 4]), ones([1, 8])], 1).mul(t.mul(1000).unsqueeze(1));
      const wanted = noGrad(() => denoiser.module.forward({ latents: fed, timestep: times, text: text.states }));
      const got = noGrad(() => denoiser.forward({ latents: x, t, text, known }));
      expect(allClose(got, wanted, exactly)).toBe(true);
      const finished = (denoiser.finish as NonNullable<typeof denoiser.finish>)(x, known);
      expect(allClose(finished, fed, exactly)).toBe(true);
    });
  });

  test("and without one it is text to video, with one time for all tokens", async () => {
    await using denoiser = fresh({}, true);
    await using codec = vae();
    scope(() => {
      const known = condition(denoiser, zeros([1, 3, 5, 32, 32]), [], codec);
      expect(known.mask.any().item()).toBe(0);
      const input = {
        latents: noise([1, C, 2, 4, 4], 2),
        t: tensor([0.5]),
        text: { states: noise([1, 6, 8], 3), mask: tensor([[true]]) },
      };
      const [a, b] = noGrad(() => [denoiser.forward({ ...input, known }), denoiser.forward(input)]);
      expect(allClose(a as Tensor, b as Tensor, exactly)).toBe(true);
      expect(() => condition(denoiser, zeros([1, 3, 5, 32, 32]), [0, 4], codec)).toThrow(/first frame and no other/);
    });
  });

  test("is what model_index.json asks for, or 48 channels, or the option", async () => {
    const pipeline = mkdtempSync(join(tmpdir(), "wan-known-"));
    const folder = join(pipeline, "transformer");
    mkdirSync(folder);
    await using denoiser = fresh({}, true);
    await denoiser.save(folder);
    const takesFrame = async (more: { expandTimesteps?: boolean } = {}): Promise<boolean> => {
      await using loaded = WanDenoiser.load(folder, { device: "cpu", ...more });
      return loaded.condition !== undefined;
    };
    expect([await takesFrame(), await takesFrame({ expandTimesteps: true })]).toEqual([false, true]);
    writeFileSync(join(pipeline, "model_index.json"), JSON.stringify({ expand_timesteps: true }));
    expect([await takesFrame(), await takesFrame({ expandTimesteps: false })]).toEqual([true, false]);
    await using large = fresh({ in_channels: 48, out_channels: 48 });
    expect(large.latent).toEqual({ channels: 48, stride: [4, 16, 16] });
    expect(large.condition).toBeDefined();
  });
});

describe("a checkpoint that reads its image through an encoder", () => {
  const image_dim = 10;
  const input = (channels: number) => ({
    latents: noise([1, C, 1, 4, 4], 1),
    t: tensor([0.5]),
    text: { states: noise([1, 6, 8], 2), mask: tensor([[true]]) },
    known: { latents: noise([1, C, 1, 4, 4], 3), mask: ones([1, channels, 1, 4, 4]) },
  });

  test("takes the tokens of one image, and the last frame through the mask alone", async () => {
    await using denoiser = fresh({ in_channels: 2 * C + 4, image_dim, added_kv_proj_dim: 24 });
    expect([denoiser.tasks, denoiser.numImages]).toEqual([["i2v", "interpolate"], 1]);
    scope(() => {
      const image = noise([1, 3, image_dim], 4);
      const forward = (image: Tensor): Tensor => noGrad(() => denoiser.forward({ ...input(4), image }));
      expect(allClose(forward(image), forward(image.neg()), { atol: 1e-4 })).toBe(false);
      expect(() => denoiser.forward(input(4))).toThrow(/reads its image through an image encoder/);
      expect(() => forward(noise([1, 3, 8], 4))).toThrow(/tokens are 8 wide, this Wan checkpoint takes 10/);
    });
  });

  test("takes first and last frame in this order where it has places for both", async () => {
    await using denoiser = fresh({ in_channels: 2 * C + 4, image_dim, added_kv_proj_dim: 24, pos_embed_seq_len: 6 });
    expect([denoiser.tasks, denoiser.numImages]).toEqual([["interpolate"], 2]);
    scope(() => {
      const places = denoiser.module.condition_embedder.image_embedder?.pos_embed as Tensor;
      noGrad(() => places.copy_(noise([1, 6, image_dim], 9)));
      const [first, last] = [noise([1, 3, image_dim], 4), noise([1, 3, image_dim], 5)];
      const forward = (...images: Tensor[]): Tensor =>
        noGrad(() => denoiser.forward({ ...input(4), image: cat(images, 1) }));
      expect(allClose(forward(first, last), forward(last, first), { atol: 1e-5 })).toBe(false);
      expect(() => forward(first)).toThrow(/6 image tokens, of a first and a last frame, and was given 3/);
    });
  });

  test("and one that makes video from text refuses tokens and frames", async () => {
    await using denoiser = fresh();
    scope(() => {
      const { known, ...rest } = input(4);
      expect(() => denoiser.forward({ ...rest, known })).toThrow(/from text only/);
      expect(() => denoiser.forward({ ...rest, image: noise([1, 3, image_dim], 4) })).toThrow(/reads no image tokens/);
    });
  });
});
