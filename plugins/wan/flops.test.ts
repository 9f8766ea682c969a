import { expect, test } from "bun:test";
import { Generator, ones, outline, scope, zeros } from "../../native/index.ts";
import { WanDenoiser } from "./denoiser.ts";
import { WanConfig } from "./params.ts";

/** Wan 2.1 T2V-14B, by its config.json. */
const [D, F, L, T] = [5120, 13824, 40, 512];
const config = WanConfig.parse({
  ...{ patch_size: [1, 2, 2], num_attention_heads: 40, attention_head_dim: 128, in_channels: 16, out_channels: 16 },
  ...{ text_dim: 4096, freq_dim: 256, ffn_dim: F, num_layers: L, cross_attn_norm: true },
});

// 81 frames of 832 x 480 and of 1280 x 720
test.each([
  [32_760, [21, 60, 104]],
  [75_600, [21, 90, 160]],
] as const)(
  "a pass of 14B at %d tokens takes what its formula says, without a byte of weights",
  async (S, [t, h, w]) => {
    using generator = new Generator(0);
    await using network = WanDenoiser.init(config, generator, { device: "meta", dtype: "bfloat16" });
    const { flops, peakBytes } = scope(() => {
      const text = {
        states: zeros([1, T, 4096], { device: "meta", dtype: "bfloat16" }),
        mask: zeros([1, T], { device: "meta", dtype: "bool" }),
      };
      const latents = zeros([1, 16, t, h, w], { device: "meta" });
      const time = ones([1], { dtype: "float64", device: "meta" });
      return outline("cpu", () => void network.forward({ latents, t: time, text }));
    });
    // q, k, v and out; attention; q and out over text; keys and values of text; attention to text; the feed-forward
    const block = 8 * S * D ** 2 + 4 * S ** 2 * D + 4 * S * D ** 2 + 4 * T * D ** 2 + 4 * S * T * D + 4 * S * D * F;
    // what stands around the blocks (patches, time, text) is a thousandth
    expect(flops / (L * block)).toBeGreaterThan(1);
    expect(flops / (L * block)).toBeLessThan(1.001);
    // a dozen rows a token, what is kept of the text, and none of 28 GB of weights
    expect(peakBytes).toBeLessThan(11 * 2 * S * D + 2 * 2 * L * T * D);
  },
);
