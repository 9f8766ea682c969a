/** One small Wan T2V in every layout that Wan is published in. */
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Generator, normal_, openSafetensors, saveSafetensors, scope, type Tensor } from "../../native/index.ts";
import { originalName as networkName } from "../../plugins/wan/checkpoint.ts";
import { WanDenoiser } from "../../plugins/wan/denoiser.ts";
import { WanConfig } from "../../plugins/wan/params.ts";
import { originalName as vaeName } from "../../plugins/wan-vae/checkpoint.ts";
import { WanVae } from "../../plugins/wan-vae/codec.ts";
import { VaeConfig } from "../../plugins/wan-vae/params.ts";
import { writePth } from "./pth.ts";

const golden = join(import.meta.dir, "../golden/pipeline_wan_t2v/pipeline");

/** umT5's names in Wan's own code (wan/modules/t5.py), written by hand: Transformers' to theirs. */
const T5_NAMES: readonly (readonly [RegExp, string])[] = [
  [/^shared\./, "token_embedding."],
  [/^encoder\.final_layer_norm\./, "norm."],
  [/^encoder\.block\.(\d+)\.layer\.0\.layer_norm\./, "blocks.$1.norm1."],
  [/^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\./, "blocks.$1.pos_embedding.embedding."],
  [/^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\./, "blocks.$1.attn.$2."],
  [/^encoder\.block\.(\d+)\.layer\.1\.layer_norm\./, "blocks.$1.norm2."],
  [/^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\./, "blocks.$1.ffn.gate.0."],
  [/^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\./, "blocks.$1.ffn.fc1."],
  [/^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\./, "blocks.$1.ffn.fc2."],
];
const textName = (name: string): string => {
  const [pattern, theirs] = T5_NAMES.find(([each]) => each.test(name)) ?? [];
  if (pattern === undefined) throw new Error(`no place for ${name}`);
  return name.replace(pattern, theirs as string);
};

/** The tensors of a file under other names, given to `write`. */
function renamed(file: string, nameOf: (name: string) => string, write: (tensors: Map<string, Tensor>) => void): void {
  using opened = openSafetensors(file);
  scope(() => write(new Map(opened.keys.map((key) => [nameOf(key), opened.get(key)]))));
}
const json = (path: string, value: object): void => {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, JSON.stringify(value));
};

/** The same weights as Diffusers' folder, as the authors' folder and as ComfyUI's tree of models, below `folder`. */
export async function wanLayouts(
  folder: string,
): Promise<{ diffusers: string; authors: string; comfy: string; file: string }> {
  const diffusers = join(folder, "diffusers");
  const authors = join(folder, "Wan2.1-T2V-tiny");
  const comfy = join(folder, "models");
  cpSync(golden, diffusers, { recursive: true });
  const { latents_mean, latents_std } = JSON.parse(readFileSync(join(golden, "vae/config.json"), "utf8"));
  // the published form, only narrower: what a file alone tells
  const config = VaeConfig.parse({ base_dim: 4, latents_mean, latents_std });
  using generator = new Generator(2);
  await using vae = WanVae.init(config, generator, { device: "cpu" });
  rmSync(join(diffusers, "vae"), { recursive: true });
  await vae.save(join(diffusers, "vae"));
  const scheduler = join(diffusers, "scheduler/scheduler_config.json");
  json(scheduler, { ...JSON.parse(readFileSync(scheduler, "utf8")), flow_shift: 5 }); // the authors' own for T2V

  const weights = "diffusion_pytorch_model.safetensors";
  const network = join(diffusers, "transformer", weights);
  const stated = {
    _class_name: "WanModel",
    model_type: "t2v",
    dim: 40,
    num_heads: 2,
    num_layers: 2,
    eps: 1e-6,
    in_dim: 16,
  };
  json(join(authors, "config.json"), stated);
  renamed(network, networkName, (tensors) => saveSafetensors(join(authors, weights), tensors));
  const text = join(diffusers, "text_encoder/model.safetensors");
  renamed(text, textName, (tensors) => writePth(join(authors, "models_t5_umt5-xxl-enc-bf16.pth"), tensors));
  const codec = join(
    diffusers,
    "vae",
    readdirSync(join(diffusers, "vae")).find((name) => name.endsWith("tensors")) ?? "",
  );
  renamed(
    codec,
    (name) => vaeName(name, config),
    (tensors) => writePth(join(authors, "Wan2.1_VAE.pth"), tensors),
  );
  cpSync(join(diffusers, "tokenizer"), join(authors, "google/umt5-xxl"), { recursive: true });

  json(join(comfy, "diffusion_models/config.json"), stated); // 40 is no multiple of 128, by which a file alone tells its heads
  const prefixed = (name: string): string => `model.diffusion_model.${networkName(name)}`;
  const file = join(comfy, "diffusion_models/wan2.1_t2v_tiny.safetensors");
  renamed(network, prefixed, (tensors) => saveSafetensors(file, tensors));
  for (const folder of ["text_encoders", "vae"]) mkdirSync(join(comfy, folder));
  cpSync(text, join(comfy, "text_encoders/umt5_xxl_fp16.safetensors"));
  cpSync(join(diffusers, "tokenizer"), join(comfy, "text_encoders/umt5-xxl"), { recursive: true });
  renamed(
    codec,
    (name) => vaeName(name, config),
    (tensors) => saveSafetensors(join(comfy, "vae/wan_2.1_vae.safetensors"), tensors),
  );
  return { diffusers, authors, comfy, file };
}

/** Wan 2.2's image-to-video, two denoisers over the text encoder and VAE of `wanLayouts`: Diffusers' folder and the authors'. */
export function wanPairs(
  folder: string,
  of: { diffusers: string; authors: string },
): { diffusers: string; authors: string } {
  const [diffusers, authors] = [join(folder, "pair"), join(folder, "Wan2.2-I2V-tiny")];
  cpSync(of.diffusers, diffusers, { recursive: true });
  cpSync(of.authors, authors, { recursive: true });
  for (const name of ["config.json", "diffusion_pytorch_model.safetensors"]) rmSync(join(authors, name));
  const index = join(diffusers, "model_index.json");
  const transformer = ["diffusers", "WanTransformer3DModel"];
  json(index, {
    ...JSON.parse(readFileSync(index, "utf8")),
    transformer,
    transformer_2: transformer,
    boundary_ratio: 0.9,
  });
  for (const [ours, theirs, seed] of [
    ["transformer", "high_noise_model", 1],
    ["transformer_2", "low_noise_model", 2],
  ] as const) {
    // 16 channels of noise, as many of known frames and 4 of their mask
    const config = WanConfig.parse({
      ...{ num_attention_heads: 3, attention_head_dim: 12, ffn_dim: 40, freq_dim: 32, num_layers: 1, text_dim: 24 },
      in_channels: 36,
    });
    using generator = new Generator(seed);
    const denoiser = WanDenoiser.init(config, generator, { device: "cpu" });
    for (const weight of denoiser.module.parameters()) normal_(weight, 0, 0.2, generator);
    rmSync(join(diffusers, ours), { recursive: true, force: true });
    void denoiser.save(join(diffusers, ours)); // writes before it returns
    denoiser.module.dispose();
    const stated = { _class_name: "WanModel", model_type: "i2v", dim: 36, num_heads: 3, num_layers: 1, eps: 1e-6 };
    json(join(authors, theirs, "config.json"), stated);
    const weights = "diffusion_pytorch_model.safetensors";
    renamed(join(diffusers, ours, weights), networkName, (tensors) =>
      saveSafetensors(join(authors, theirs, weights), tensors),
    );
  }
  return { diffusers, authors };
}
