import { describe, expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  cat,
  Generator,
  noGrad,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
} from "../../native/index.ts";
import { imageSettings, loadVision, visionBytes } from "./checkpoint.ts";
import { ClipVision } from "./model.ts";
import { knownTower } from "./original.ts";
import { VisionConfig } from "./params.ts";

setThreads(1);

const config = {
  model_type: "clip_vision_model",
  hidden_size: 30,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 5,
  image_size: 28,
  patch_size: 7,
  hidden_act: "gelu",
  projection_dim: 11,
};
const made = (): ClipVision => {
  using generator = new Generator(3);
  return new ClipVision(VisionConfig.parse(config), true).init(generator);
};

/** The same weights as wan/modules/clip.py names and shapes them, a text tower beside them. */
function originals(model: ClipVision): Map<string, Tensor> {
  const ours = model.stateDict();
  const take = (name: string): Tensor => ours.get(name) as Tensor;
  const theirs = new Map<string, Tensor>();
  const put = (name: string, value: Tensor): void => void theirs.set(`visual.${name}`, value.contiguous());
  const vision = "vision_model.";
  put("cls_embedding", take(`${vision}embeddings.class_embedding`).view([1, 1, -1]));
  put("pos_embedding", take(`${vision}embeddings.position_embedding.weight`).unsqueeze(0));
  put("patch_embedding.weight", take(`${vision}embeddings.patch_embedding.weight`));
  put("head", take("visual_projection.weight").transpose(0, 1));
  for (const part of ["weight", "bias"]) {
    put(`pre_norm.${part}`, take(`${vision}pre_layrnorm.${part}`));
    put(`post_norm.${part}`, take(`${vision}post_layernorm.${part}`));
    for (let i = 0; i < 2; i++) {
      const layer = (name: string): Tensor => take(`${vision}encoder.layers.${i}.${name}.${part}`);
      const qkv = ["q_proj", "k_proj", "v_proj"].map((name) => layer(`self_attn.${name}`));
      put(`transformer.${i}.attn.to_qkv.${part}`, cat(qkv));
      put(`transformer.${i}.attn.proj.${part}`, layer("self_attn.out_proj"));
      put(`transformer.${i}.norm1.${part}`, layer("layer_norm1"));
      put(`transformer.${i}.norm2.${part}`, layer("layer_norm2"));
      put(`transformer.${i}.mlp.0.${part}`, layer("mlp.fc1"));
      put(`transformer.${i}.mlp.2.${part}`, layer("mlp.fc2"));
    }
  }
  theirs.set("textual.token_embedding.weight", take(`${vision}pre_layrnorm.bias`).clone());
  theirs.set("log_scale", take(`${vision}pre_layrnorm.bias`).sum());
  return theirs;
}
describe("a tower under Wan's own names", () => {
  test("is the tower under Transformers'", () => {
    using model = made();
    const folder = mkdtempSync(join(tmpdir(), "clip-original-"));
    writeFileSync(join(folder, "config.json"), JSON.stringify(config));
    const file = join(folder, "models_clip.safetensors");
    scope(() => saveSafetensors(file, originals(model)));
    for (const path of [folder, file]) {
      using again = loadVision(path, { device: "cpu" }).model;
      expect(visionBytes(path)).toBe(model.bytes("float32"));
      scope(() => {
        using generator = new Generator(1);
        const pixels = randn([2, 3, 28, 28], { generator });
        const [a, b] = noGrad(() => [model.embedImages(pixels), again.embedImages(pixels)]) as [Tensor, Tensor];
        expect(allClose(a, b, { rtol: 0, atol: 0 })).toBe(true);
      });
    }
    expect(imageSettings(file, VisionConfig.parse(config)).crop).toEqual({ height: 28, width: 28 });
  });

  test("that is known by its size needs no configuration, any other does", () => {
    using model = made();
    const file = join(mkdtempSync(join(tmpdir(), "clip-original-")), "tower.safetensors");
    scope(() => saveSafetensors(file, originals(model)));
    expect(() => loadVision(file, { device: "cpu" })).toThrow(/a tower of 30 x 2 layers is none that is known/);
    // Wan 2.1's: OpenCLIP ViT-H/14, from its declaration alone
    const large = new ClipVision(
      VisionConfig.parse({
        ...{ hidden_size: 1280, intermediate_size: 5120, num_hidden_layers: 32, num_attention_heads: 16 },
        ...{ hidden_act: "gelu", patch_size: 14, projection_dim: 1024 },
      }),
      true,
    );
    const shapes = new Map([...large.namedWeights()].map(([name, weight]) => [name, weight.shape]));
    const info = (name: string): { shape: readonly number[] } => ({ shape: shapes.get(name) as readonly number[] });
    expect(knownTower({ keys: [...shapes.keys()], info }, "x")).toEqual(
      VisionConfig.parse({
        hidden_size: 1280,
        intermediate_size: 5120,
        num_hidden_layers: 32,
        num_attention_heads: 16,
        hidden_act: "gelu",
        image_size: 224,
        patch_size: 14,
        projection_dim: 1024,
      }),
    );
    expect(() => knownTower({ keys: ["conv.weight"], info }, "x")).toThrow(/no vision tower of CLIP/);
  });
});
