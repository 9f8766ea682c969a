import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { authorsFolder, comfyFile } from "./layout.ts";

const scratch = mkdtempSync(join(tmpdir(), "wan-layout-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A repository's folder: the names of its files, and what its config.json says it is. */
function repository(name: string, kind: string, files: readonly string[], configs = ["config.json"]): string {
  const folder = join(scratch, name);
  const put = (path: string, text = ""): void => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  };
  for (const file of [...files, "google/umt5-xxl/tokenizer.json", "models_t5_umt5-xxl-enc-bf16.pth"]) put(file);
  for (const config of configs) put(config, JSON.stringify({ _class_name: "WanModel", model_type: kind, dim: 5120 }));
  return folder;
}
const shards = ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model.safetensors.index.json"];
const clip = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth";

test("Wan 2.1, image to video: shards by their index, CLIP, and the authors' shift for 480p", () => {
  const folder = repository("Wan2.1-I2V-14B-480P", "i2v", ["Wan2.1_VAE.pth", clip, ...shards]);
  const { index, components } = authorsFolder(folder) ?? {};
  expect(index).toMatchObject({
    _class_name: "WanImageToVideoPipeline",
    image_encoder: ["transformers", "CLIPVisionModel"],
    _waver: { defaults: { numSteps: 40 } },
  });
  expect(components).toMatchObject({
    transformer: { path: join(folder, "diffusion_pytorch_model.safetensors.index.json"), options: {} },
    image_encoder: { path: join(folder, clip) },
    text_encoder: { options: { tokenizer: join(folder, "google/umt5-xxl") } },
    scheduler: { options: { config: { flow_shift: 3, use_flow_sigmas: true } } },
  });
  const large = authorsFolder(repository("Wan2.1-I2V-14B-720P", "i2v", ["Wan2.1_VAE.pth", clip, ...shards]));
  expect(large?.index["_waver"]).toMatchObject({ defaults: { width: 1280, height: 720 } });
  expect(large?.components["scheduler"]?.options).toMatchObject({ config: { flow_shift: 5 } });
  const ends = authorsFolder(repository("Wan2.1-FLF2V-14B-720P", "flf2v", ["Wan2.1_VAE.pth", clip, ...shards]));
  expect(ends?.components["scheduler"]?.options).toMatchObject({ config: { flow_shift: 16 } });
  rmSync(join(folder, clip));
  expect(() => authorsFolder(folder)).toThrow(/without models_clip/);
});

test("Wan 2.2: two denoisers with their boundary, and the first frame held fixed", () => {
  const experts = ["high_noise_model", "low_noise_model"];
  const files = experts.flatMap((each) => shards.map((name) => `${each}/${name}`));
  const configs = experts.map((each) => `${each}/config.json`);
  const pair = authorsFolder(repository("Wan2.2-I2V-A14B", "i2v", ["Wan2.1_VAE.pth", ...files], configs));
  expect(pair?.index).toMatchObject({ boundary_ratio: 0.9, transformer_2: ["diffusers", "WanTransformer3DModel"] });
  expect(pair?.index["image_encoder"]).toBeUndefined();
  expect(pair?.components["transformer_2"]?.path).toContain("low_noise_model");
  const five = authorsFolder(repository("Wan2.2-TI2V-5B", "ti2v", ["Wan2.2_VAE.pth", ...shards]));
  expect(five?.index).toMatchObject({ expand_timesteps: true, _waver: { defaults: { height: 704, fps: 24 } } });
  expect(five?.components["transformer"]?.options).toEqual({ expandTimesteps: true });
});

test("what is another's is left to others", () => {
  expect(authorsFolder(join(scratch, "nothing"))).toBeNull();
  const other = join(scratch, "other");
  mkdirSync(other);
  writeFileSync(join(other, "config.json"), JSON.stringify({ model_type: "llama" }));
  expect(authorsFolder(other)).toBeNull();
  expect(comfyFile(join(other, "wan.safetensors"))).toBeNull();
  const sd = join(scratch, "models/unet/flux.safetensors");
  mkdirSync(dirname(sd), { recursive: true });
  writeFileSync(sd, "");
  expect(comfyFile(sd)).toBeNull();
  const high = join(scratch, "models/unet/wan2.2_t2v_high_noise_14B_fp16.safetensors");
  writeFileSync(high, "");
  expect(() => comfyFile(high)).toThrow(/one of two denoisers/);
});
