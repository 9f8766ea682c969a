import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Generator, noGrad, randn, saveSafetensors, scope, setThreads, tensor, zeros } from "../../native/index.ts";
import { toWaverError, type WaverError } from "../index.ts";
import { originalName, VaeCheckpoint } from "./checkpoint.ts";
import { WanVae, weightBytes } from "./codec.ts";
import { AutoencoderKLWan } from "./model.ts";
import { VaeConfig } from "./params.ts";

setThreads(1);
const scratch = mkdtempSync(join(tmpdir(), "wan-vae-checkpoint-"));
afterAll(() => rm(scratch, { recursive: true, force: true }));
const stats = (n: number) => ({ latents_mean: Array<number>(n).fill(0.25), latents_std: Array<number>(n).fill(2) });
/** The published networks in smaller widths. */
const forms = {
  "Wan 2.1": VaeConfig.parse({ base_dim: 4, z_dim: 16, ...stats(16) }),
  "Wan 2.2": VaeConfig.parse({
    ...{
      base_dim: 4,
      decoder_base_dim: 8,
      z_dim: 48,
      is_residual: true,
      patch_size: 2,
      in_channels: 12,
      out_channels: 12,
    },
    ...stats(48),
  }),
};
/** Names that stand in Wan2.1_VAE.pth and Wan2.2_VAE.pth, beside Diffusers'. */
const known: Record<keyof typeof forms, Record<string, string>> = {
  "Wan 2.1": {
    "quant_conv.weight": "conv1.weight",
    "post_quant_conv.bias": "conv2.bias",
    "encoder.conv_in.weight": "encoder.conv1.weight",
    "encoder.down_blocks.0.norm1.gamma": "encoder.downsamples.0.residual.0.gamma",
    "encoder.down_blocks.2.resample.1.weight": "encoder.downsamples.2.resample.1.weight",
    "encoder.down_blocks.3.conv_shortcut.weight": "encoder.downsamples.3.shortcut.weight",
    "encoder.down_blocks.5.time_conv.bias": "encoder.downsamples.5.time_conv.bias",
    "encoder.down_blocks.10.conv2.bias": "encoder.downsamples.10.residual.6.bias",
    "encoder.mid_block.resnets.1.norm2.gamma": "encoder.middle.2.residual.3.gamma",
    "encoder.mid_block.attentions.0.to_qkv.weight": "encoder.middle.1.to_qkv.weight",
    "encoder.norm_out.gamma": "encoder.head.0.gamma",
    "encoder.conv_out.weight": "encoder.head.2.weight",
    "decoder.mid_block.attentions.0.norm.gamma": "decoder.middle.1.norm.gamma",
    "decoder.up_blocks.0.resnets.2.conv1.weight": "decoder.upsamples.2.residual.2.weight",
    "decoder.up_blocks.0.upsamplers.0.time_conv.weight": "decoder.upsamples.3.time_conv.weight",
    "decoder.up_blocks.1.resnets.0.conv_shortcut.weight": "decoder.upsamples.4.shortcut.weight",
    "decoder.up_blocks.2.upsamplers.0.resample.1.bias": "decoder.upsamples.11.resample.1.bias",
    "decoder.up_blocks.3.resnets.2.conv2.weight": "decoder.upsamples.14.residual.6.weight",
    "decoder.conv_out.bias": "decoder.head.2.bias",
  },
  "Wan 2.2": {
    "encoder.down_blocks.0.resnets.1.conv1.weight": "encoder.downsamples.0.downsamples.1.residual.2.weight",
    "encoder.down_blocks.1.downsampler.time_conv.weight": "encoder.downsamples.1.downsamples.2.time_conv.weight",
    "encoder.down_blocks.0.downsampler.resample.1.bias": "encoder.downsamples.0.downsamples.2.resample.1.bias",
    "decoder.up_blocks.0.upsampler.time_conv.weight": "decoder.upsamples.0.upsamples.3.time_conv.weight",
    "decoder.up_blocks.2.resnets.0.conv_shortcut.weight": "decoder.upsamples.2.upsamples.0.shortcut.weight",
    "decoder.up_blocks.3.resnets.2.norm2.gamma": "decoder.upsamples.3.upsamples.2.residual.3.gamma",
  },
};
const failure = (path: string): WaverError => {
  try {
    new VaeCheckpoint(path)[Symbol.dispose]();
  } catch (error) {
    return toWaverError(error);
  }
  throw new Error("it was read");
};

describe.each(Object.keys(forms) as (keyof typeof forms)[])("%s", (form) => {
  const config = forms[form];

  test("has the names that Wan's own files have", () => {
    using network = new AutoencoderKLWan(config);
    const names = Array.from(network.namedWeights(), ([name]) => name);
    for (const [ours, theirs] of Object.entries(known[form])) {
      expect([ours, names.includes(ours)]).toEqual([ours, true]);
      expect(originalName(ours, config)).toBe(theirs);
    }
    expect(new Set(names.map((name) => originalName(name, config))).size).toBe(names.length);
  });

  test("is the same network from one file, whose statistics are those that were published", async () => {
    using generator = new Generator(7);
    await using vae = WanVae.init(config, generator, { device: "cpu" });
    const path = join(scratch, `${form}.safetensors`);
    scope(() =>
      saveSafetensors(
        path,
        new Map(
          Array.from(vae.module.stateDict(), ([name, weight]) => [
            originalName(name, config),
            weight.detach().contiguous(),
          ]),
        ),
      ),
    );
    await using loaded = WanVae.load(path, { device: "cpu" });
    expect(weightBytes(path)).toBe(vae.module.bytes("float32"));
    expect(loaded.latent).toEqual(vae.latent);
    const { latents_mean, latents_std } = loaded.config;
    expect([latents_mean.length, latents_std.length, latents_mean[0]]).toEqual(
      form === "Wan 2.1" ? [16, 16, -0.7571] : [48, 48, -0.2289],
    );
    scope(() => {
      using seeded = new Generator(1);
      const z = randn([1, config.z_dim, 2, 2, 2], { generator: seeded });
      const [a, b] = noGrad(() => [vae.reconstruct(z), loaded.reconstruct(z)]);
      expect(a?.toFloat32Array()).toEqual(b?.toFloat32Array() as Float32Array);
    });
  });
});

test("what cannot be read says why", () => {
  expect(failure(join(scratch, "nowhere"))).toMatchObject({ code: "checkpoint_missing" });
  writeFileSync(join(scratch, "Wan2.1_VAE.pth"), "PK");
  expect(failure(join(scratch, "Wan2.1_VAE.pth")).message).toMatch(/is a \.pth file/);
  const stranger = join(scratch, "stranger.safetensors");
  scope(() => saveSafetensors(stranger, { "model.weight": tensor([1]) }));
  expect(failure(stranger).message).toMatch(/holds no Wan VAE/);
  const odd = join(scratch, "odd.safetensors");
  scope(() => saveSafetensors(odd, { "conv2.weight": zeros([5, 5, 1, 1, 1]) }));
  expect(failure(odd)).toMatchObject({
    message: expect.stringMatching(/statistics of 5 latent channels/),
    hint: expect.stringMatching(/config\.json/),
  });
});
