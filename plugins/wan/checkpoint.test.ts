import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  dequantised,
  Generator,
  Linear,
  noGrad,
  quantisable,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import { toWaverError, type WaverError } from "../index.ts";
import { originalName, WanCheckpoint } from "./checkpoint.ts";
import { WanDenoiser, weightBytes } from "./denoiser.ts";
import { WanTransformer } from "./model.ts";
import { WanConfig } from "./params.ts";

setThreads(1);
const scratch = mkdtempSync(join(tmpdir(), "wan-checkpoint-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** One head of 128: what a lone file is taken for. Reads first and last frame through an image encoder. */
const config = WanConfig.parse({
  num_attention_heads: 1,
  attention_head_dim: 128,
  in_channels: 12,
  out_channels: 4,
  text_dim: 8,
  freq_dim: 16,
  ffn_dim: 20,
  num_layers: 2,
  image_dim: 6,
  added_kv_proj_dim: 128,
  pos_embed_seq_len: 6,
});
const fresh = (more: Partial<WanConfig> = {}): WanDenoiser => {
  using generator = new Generator(5);
  return WanDenoiser.init({ ...config, ...more }, generator, { device: "cpu", textLength: 6 });
};
const noise = (shape: number[], seed: number): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
/** What a network says of one fixed input. */
const velocity = (denoiser: WanDenoiser): Float32Array =>
  scope(() =>
    noGrad(() =>
      denoiser.forward({
        latents: noise([1, 4, 2, 4, 6], 1),
        t: tensor([0.3]),
        text: { states: noise([1, 6, 8], 2), mask: tensor([[true]]) },
        known: { latents: noise([1, 4, 2, 4, 6], 3), mask: noise([1, 4, 2, 4, 6], 4) },
        image: noise([1, 6, 6], 5),
      }),
    ).toFloat32Array(),
  );
const rewriteConfig = (folder: string, json: object): void => {
  rmSync(join(folder, "config.json"), { force: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(json));
};
/** The weights of a network in a file of another layout. */
const write = (path: string, denoiser: WanDenoiser, name: (name: string) => string, cast = (t: Tensor) => t): void =>
  scope(() =>
    saveSafetensors(
      path,
      new Map(Array.from(denoiser.module.stateDict(), ([key, t]) => [name(key), cast(t.detach())])),
    ),
  );
const failure = (path: string): WaverError => {
  try {
    new WanCheckpoint(path)[Symbol.dispose]();
  } catch (error) {
    return toWaverError(error);
  }
  throw new Error("it was read");
};

/** Wan's names to Diffusers', in the order in which diffusers' own converter (convert_wan_to_diffusers.py) replaces them. */
const DIFFUSERS: readonly (readonly [string, string])[] = [
  ["time_embedding.0", "condition_embedder.time_embedder.linear_1"],
  ["time_embedding.2", "condition_embedder.time_embedder.linear_2"],
  ["text_embedding.0", "condition_embedder.text_embedder.linear_1"],
  ["text_embedding.2", "condition_embedder.text_embedder.linear_2"],
  ["time_projection.1", "condition_embedder.time_proj"],
  ["head.modulation", "scale_shift_table"],
  ["head.head", "proj_out"],
  ["modulation", "scale_shift_table"],
  ["ffn.0", "ffn.net.0.proj"],
  ["ffn.2", "ffn.net.2"],
  ["norm2", "norm__placeholder"],
  ["norm3", "norm2"],
  ["norm__placeholder", "norm3"],
  ["img_emb.proj.0", "condition_embedder.image_embedder.norm1"],
  ["img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"],
  ["img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"],
  ["img_emb.proj.4", "condition_embedder.image_embedder.norm2"],
  ["img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"],
  ["self_attn.q", "attn1.to_q"],
  ["self_attn.k", "attn1.to_k"],
  ["self_attn.v", "attn1.to_v"],
  ["self_attn.o", "attn1.to_out.0"],
  ["self_attn.norm_q", "attn1.norm_q"],
  ["self_attn.norm_k", "attn1.norm_k"],
  ["cross_attn.q", "attn2.to_q"],
  ["cross_attn.k", "attn2.to_k"],
  ["cross_attn.v", "attn2.to_v"],
  ["cross_attn.o", "attn2.to_out.0"],
  ["cross_attn.norm_q", "attn2.norm_q"],
  ["cross_attn.norm_k", "attn2.norm_k"],
  ["attn2.to_k_img", "attn2.add_k_proj"],
  ["attn2.to_v_img", "attn2.add_v_proj"],
  ["attn2.norm_k_img", "attn2.norm_added_k"],
];

test("every weight has the name that diffusers' converter takes for it", () => {
  using network = new WanTransformer(config);
  for (const [name] of network.namedWeights()) {
    const original = originalName(name);
    const back = DIFFUSERS.reduce((key, [theirs, ours]) => key.replaceAll(theirs, ours), original);
    expect([original, back]).toEqual([original, name]);
  }
  expect(originalName("blocks.11.attn2.add_k_proj.weight")).toBe("blocks.11.cross_attn.k_img.weight");
  expect(originalName("blocks.3.norm2.weight")).toBe("blocks.3.norm3.weight");
  expect(originalName("patch_embedding.bias")).toBe("patch_embedding.bias");
});

describe("a checkpoint", () => {
  test("gives the same network in every layout", async () => {
    await using denoiser = fresh();
    const expected = velocity(denoiser);
    const diffusers = join(scratch, "diffusers");
    await denoiser.save(diffusers);
    const layouts: Record<string, string> = { diffusers };

    // shards with an index
    const sharded = join(scratch, "sharded");
    mkdirSync(sharded);
    cpSync(join(diffusers, "config.json"), join(sharded, "config.json"));
    const names = [...denoiser.module.stateDict().keys()];
    const map: Record<string, string> = {};
    scope(() => {
      for (const part of [0, 1]) {
        const file = `diffusion_pytorch_model-0000${part + 1}-of-00002.safetensors`;
        const mine = names.filter((_, i) => i % 2 === part);
        for (const name of mine) map[name] = file;
        saveSafetensors(
          join(sharded, file),
          new Map(mine.map((name) => [name, (denoiser.module.stateDict().get(name) as Tensor).detach()])),
        );
      }
    });
    writeFileSync(join(sharded, "diffusion_pytorch_model.safetensors.index.json"), JSON.stringify({ weight_map: map }));
    layouts["sharded"] = sharded;

    // Wan's own folder: its names, its config
    const original = join(scratch, "original");
    mkdirSync(original);
    write(join(original, "diffusion_pytorch_model.safetensors"), denoiser, originalName);
    rewriteConfig(original, {
      _class_name: "WanModel",
      dim: 128,
      num_heads: 1,
      num_layers: 2,
      eps: 1e-6,
      model_type: "i2v",
    });
    layouts["original"] = original;

    // one file alone: ComfyUI's, Wan's and Diffusers' names
    const alone: Record<string, (name: string) => string> = {
      comfy: (name) => `model.diffusion_model.${originalName(name)}`,
      bare: originalName,
      ours: (name) => name,
    };
    mkdirSync(join(scratch, "alone"));
    for (const [kind, name] of Object.entries(alone)) {
      layouts[kind] = join(scratch, "alone", `${kind}.safetensors`);
      write(layouts[kind], denoiser, name);
    }

    for (const [layout, path] of Object.entries(layouts)) {
      await using loaded = WanDenoiser.load(path, { device: "cpu", textLength: 6 });
      expect([layout, velocity(loaded)]).toEqual([layout, expected]);
      expect([layout, weightBytes(path)]).toEqual([layout, denoiser.module.bytes("float32")]);
      expect([layout, loaded.tasks, loaded.numImages]).toEqual([layout, ["interpolate"], 2]);
    }
  });

  test("of float8 is widened, by its scales where it has any", async () => {
    await using denoiser = fresh();
    const path = join(scratch, "float8.safetensors");
    const isMatrix = (name: string): boolean => /^blocks\..*(to_|ffn).*weight$/.test(name);
    scope(() => {
      const file = new Map<string, Tensor>([["scaled_fp8", tensor([0]).to("float8_e4m3fn")]]);
      for (const [name, weight] of denoiser.module.stateDict()) {
        const key = originalName(name);
        if (!isMatrix(name)) {
          file.set(key, weight.detach());
          continue;
        }
        file.set(key, weight.detach().mul(64).to("float8_e4m3fn"));
        file.set(key.replace(/weight$/, "scale_weight"), tensor(1 / 64));
      }
      saveSafetensors(path, file);
    });
    await using loaded = WanDenoiser.load(path, { device: "cpu", textLength: 6 });
    for (const [name, weight] of loaded.module.stateDict())
      scope(() => {
        const before = denoiser.module.stateDict().get(name) as Tensor;
        expect([name, weight.dtype]).toEqual([name, isMatrix(name) ? "bfloat16" : "float32"]);
        // three bits behind the point: half of the last is 1/16
        expect([name, allClose(weight.float(), before, { rtol: 1 / 16, atol: 1e-3 })]).toEqual([name, true]);
      });
    expect(weightBytes(path)).toBe(
      [...loaded.module.namedWeights()].reduce((sum, [, weight]) => sum + weight.bytesAs(weight.dtype), 0),
    );
    // kept in fp8 it is what the file holds: scales that are powers of two lose nothing
    await using kept = WanDenoiser.load(path, { device: "cpu", textLength: 6, weights: "fp8" });
    const layers = quantisable(kept.module);
    expect(layers.size).toBeGreaterThan(10);
    const widened = new Map(loaded.module.namedModules());
    for (const [name, layer] of kept.module.namedModules())
      if (layer instanceof Linear && layers.has(layer.weight) && isMatrix(`${name}.weight`))
        scope(() => {
          const back = dequantised(layer.weight, layer.weight_scale as Tensor, "bfloat16");
          const want = (widened.get(name) as Linear).weight;
          expect([name, layer.weight.dtype, back.sub(want).abs().max().item()]).toEqual([name, "float8_e4m3fn", 0]);
        });
  });

  test("that cannot be read says why in one sentence", async () => {
    await using denoiser = fresh();
    const folder = join(scratch, "bad");
    await denoiser.save(folder);

    expect(failure(join(scratch, "nowhere"))).toMatchObject({
      code: "checkpoint_missing",
      message: expect.stringMatching(/no checkpoint at/),
    });
    writeFileSync(join(scratch, "x.gguf"), "GGUF");
    expect(failure(join(scratch, "x.gguf"))).toMatchObject({ message: expect.stringMatching(/\.gguf file/) });

    const stranger = join(scratch, "stranger.safetensors");
    scope(() => saveSafetensors(stranger, { "first_stage_model.conv.weight": tensor([1]) }));
    expect(failure(stranger)).toMatchObject({
      code: "checkpoint_invalid",
      message: expect.stringMatching(/holds no Wan transformer/),
      hint: expect.stringMatching(/first_stage_model/),
    });

    const whole = join(scratch, "integers.safetensors");
    write(
      whole,
      denoiser,
      (name) => name,
      (t) => t.to("int8"),
    );
    expect(failure(whole)).toMatchObject({
      message: expect.stringMatching(/is stored as int8/),
      hint: expect.stringMatching(/bfloat16/),
    });

    const narrow = join(scratch, "narrow.safetensors");
    await using small = fresh({ attention_head_dim: 12, added_kv_proj_dim: 12 });
    write(narrow, small, originalName);
    expect(failure(narrow)).toMatchObject({
      message: expect.stringMatching(/width of 12 does not tell the number of heads/),
      hint: expect.stringMatching(/config.json/),
    });

    rewriteConfig(folder, { _class_name: "WanModel", dim: 128, num_heads: 1, num_layers: 3 });
    expect(failure(folder)).toMatchObject({
      message: expect.stringMatching(/holds 2 layers of width 128.*says 3 of 128/),
    });
    rewriteConfig(folder, { _class_name: "Other" });
    expect(failure(folder).code).toBe("checkpoint_invalid");

    // a shard that is not there
    rewriteConfig(folder, { ...config });
    writeFileSync(
      join(folder, "diffusion_pytorch_model.safetensors.index.json"),
      JSON.stringify({ weight_map: { "proj_out.weight": "diffusion_pytorch_model-00002-of-00002.safetensors" } }),
    );
    expect(failure(folder)).toMatchObject({
      code: "checkpoint_missing",
      message: expect.stringMatching(/00002-of-00002\.safetensors.*is not there/),
    });
  });
});
