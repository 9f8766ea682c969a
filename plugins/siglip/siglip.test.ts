import { describe, expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  allClose,
  Generator,
  noGrad,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
  tensor,
  unit,
} from "../../native/index.ts";
import { checkPlugin, failures } from "../testing.ts";
import { loadSiglip, loadVision, readConfig, visionBytes } from "./checkpoint.ts";
import { SiglipImages } from "./images.ts";
import plugin from "./index.ts";
import { Siglip } from "./model.ts";
import { SiglipConfig } from "./params.ts";

setThreads(1);

const vision_config = {
  hidden_size: 30,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 5,
  image_size: 32,
  patch_size: 8,
};
const text_config = {
  hidden_size: 24,
  intermediate_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  vocab_size: 50,
  max_position_embeddings: 9,
  projection_size: 30,
};
const file = { architectures: ["SiglipModel"], model_type: "siglip", vision_config, text_config };
const made = (more: object = {}): Siglip => {
  using generator = new Generator(3);
  return new Siglip(SiglipConfig.parse({ ...file, ...more })).init(generator);
};
const noise = (shape: number[], seed = 1): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
function folderOf(weights: ReadonlyMap<string, Tensor>, config: object = file): string {
  const folder = mkdtempSync(join(tmpdir(), "siglip-"));
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  saveSafetensors(join(folder, "model.safetensors"), weights);
  return folder;
}

test("the plugin keeps the contract", async () => expect(failures(await checkPlugin(plugin))).toEqual([]));

describe("the towers", () => {
  test("a batch is its images and texts alone", () => {
    using model = made();
    scope(() => {
      const pixels = noise([2, 3, 32, 32]);
      const pool = (image: Tensor): Tensor => noGrad(() => model.vision_model.pool(model.vision_model.forward(image)));
      const together = pool(pixels);
      expect(together.shape).toEqual([2, 30]);
      for (const [i, image] of pixels.split(1).entries())
        expect(allClose(together.narrow(0, i, 1), pool(image), { atol: 1e-6 })).toBe(true);
      const ids = tensor(
        [
          [1, 2, 3, 4],
          [5, 6, 7, 8],
        ],
        { dtype: "int64" },
      );
      const read = (rows: Tensor): Tensor => noGrad(() => model.text_model.pool(model.text_model.forward(rows)));
      for (const [i, row] of ids.split(1).entries())
        expect(allClose(read(ids).narrow(0, i, 1), read(row), { atol: 1e-6 })).toBe(true);
    });
  });

  test("a masked token is not seen, and later ones are", () => {
    using model = made();
    scope(() => {
      const last = (ids: number[], mask?: number[]): Tensor =>
        noGrad(() =>
          model.text_model.pool(
            model.text_model.forward(
              tensor([ids], { dtype: "int64" }),
              mask === undefined ? undefined : tensor([mask], { dtype: "int64" }),
            ),
          ),
        );
      expect(allClose(last([7, 2, 3], [0, 1, 1]), last([9, 2, 3], [0, 1, 1]), { atol: 1e-6 })).toBe(true);
      // no causal mask: the first position sees the last
      const states = (ids: number[]): Tensor =>
        noGrad(() => model.text_model.forward(tensor([ids], { dtype: "int64" })).select(1, 0));
      expect(allClose(states([1, 2, 3]), states([1, 2, 4]), { atol: 1e-4 })).toBe(false);
      expect(() => model.text_model.forward(tensor([Array(10).fill(1)], { dtype: "int64" }))).toThrow(/reads 9 tokens/);
    });
  });

  test("another size is refused, or its positions are resized", () => {
    using model = made();
    scope(() => {
      const wide = noise([1, 3, 24, 41]);
      expect(() => model.vision_model.forward(wide)).toThrow(/images of 32 x 32, not 41 x 24/);
      expect(noGrad(() => model.vision_model.forward(wide, { interpolate: true })).shape).toEqual([1, 3 * 5, 30]);
    });
  });

  test("logits are scaled and shifted cosines", () => {
    using model = made();
    scope(() => {
      const [texts, images] = [noise([2, 30]), noise([3, 30], 2)];
      const logits = noGrad(() => model.logits(texts.mul(5), images)).toNumbers();
      const want = unit(texts).matmul(unit(images).transpose(0, 1)).toNumbers();
      // fresh scale and bias are 0
      for (const [i, value] of logits.entries()) expect(value).toBeCloseTo(want[i] as number, 5);
    });
  });
});

describe("folders", () => {
  test("of the whole model and of the tower alone, with and without its prefix, hold the same tower", () => {
    using model = made();
    const whole = folderOf(model.stateDict());
    const tower = [...model.vision_model.namedWeights()];
    const config = { architectures: ["SiglipVisionModel"], ...vision_config };
    const bare = folderOf(new Map(tower), config);
    const prefixed = folderOf(new Map(tower.map(([key, value]) => [`vision_model.${key}`, value])), config);
    scope(() => {
      const pixels = noise([1, 3, 32, 32]);
      const want = noGrad(() => model.vision_model.forward(pixels));
      for (const folder of [whole, bare, prefixed]) {
        using vision = loadVision(folder, { device: "cpu" }).model;
        expect(visionBytes(folder)).toBe(vision.bytes("float32"));
        expect(
          allClose(
            noGrad(() => vision.vision_model.forward(pixels)),
            want,
            { rtol: 0, atol: 0 },
          ),
        ).toBe(true);
      }
    });
    using again = loadSiglip(whole, { device: "cpu" }).model;
    expect(again.numParameters()).toBe(model.numParameters());
    expect(() => loadSiglip(bare, { device: "cpu" })).toThrow(/vision tower alone/);
  });

  test("without a pooling head the patches are averaged", () => {
    using model = made({ vision_config: { ...vision_config, vision_use_head: false } });
    scope(() => {
      const states = noise([2, 16, 30]);
      expect(allClose(model.vision_model.pool(states), states.mean(1))).toBe(true);
    });
  });

  test.each([
    [{ model_type: "siglip2" }, /a siglip2, not SigLIP/],
    [{ ...file, vision_config: { ...vision_config, hidden_act: "relu" } }, /hidden_act/],
  ])("%j is one sentence", (config, message) => {
    const folder = mkdtempSync(join(tmpdir(), "siglip-"));
    writeFileSync(join(folder, "config.json"), JSON.stringify(config));
    expect(() => readConfig(folder)).toThrow(message);
  });

  test("frames of any size reach the tower, squeezed into its square", async () => {
    using model = made();
    await using images = SiglipImages.load(folderOf(model.stateDict()), { device: "cpu" });
    const data = new Uint8Array(2 * 20 * 50 * 3).map((_, i) => (i * 7) % 255);
    const sum = images.sumOf({ data, count: 2, width: 50, height: 20 });
    expect(sum.length).toBe(30);
    expect(Math.hypot(...sum)).toBeGreaterThan(1);
  });
});
