import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, renameSync, writeFileSync } from "node:fs";
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
import { testContext } from "../../test/support/context.ts";
import type { ClipFrames, FrameBatch } from "../index.ts";
import { checkPlugin, failures } from "../testing.ts";
import { loadClip, loadVision, readConfig, visionBytes } from "./checkpoint.ts";
import plugin from "./index.ts";
import { Clip } from "./model.ts";
import { ClipConfig } from "./params.ts";

setThreads(1);

const vision_config = {
  hidden_size: 30,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 5,
  image_size: 28,
  patch_size: 7,
  hidden_act: "gelu",
};
const text_config = {
  hidden_size: 24,
  intermediate_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  vocab_size: 50,
  max_position_embeddings: 9,
  eos_token_id: 49,
};
const file = { architectures: ["CLIPModel"], model_type: "clip", projection_dim: 12, vision_config, text_config };
const made = (seed = 3): Clip => {
  using generator = new Generator(seed);
  return new Clip(ClipConfig.parse(file)).init(generator);
};
const noise = (shape: number[], seed = 1): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
/** A folder as Transformers writes it; `config` replaces what is said of it, `extra` adds tensors. */
function folderOf(model: Clip, config: object = file, extra: Readonly<Record<string, Tensor>> = {}): string {
  const folder = mkdtempSync(join(tmpdir(), "clip-"));
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  saveSafetensors(join(folder, "model.safetensors"), new Map([...model.stateDict(), ...Object.entries(extra)]));
  return folder;
}

test("the plugin keeps the contract", async () => expect(failures(await checkPlugin(plugin))).toEqual([]));

describe("the towers", () => {
  test("a batch is its images alone", () => {
    using model = made();
    scope(() => {
      const pixels = noise([2, 3, 28, 28]);
      const together = noGrad(() => model.embedImages(pixels));
      const apart = noGrad(() => pixels.split(1).map((image) => model.embedImages(image)));
      expect(together.shape).toEqual([2, 12]);
      for (const [i, alone] of apart.entries())
        expect(allClose(together.narrow(0, i, 1), alone, { atol: 1e-6 })).toBe(true);
    });
  });

  test("skipLast gives the states before the last layers", () => {
    using model = made();
    scope(() => {
      const states = new Map<string, number[]>();
      const pixels = noise([1, 3, 28, 28]);
      noGrad(() =>
        model.vision_model.forward(pixels, {
          tap: (name, value) => states.set(name, value.flatten().toNumbers() as number[]),
        }),
      );
      const penultimate = noGrad(() => model.vision_model.forward(pixels, { skipLast: 1 }));
      expect([...states.keys()]).toEqual(["hidden_states.0", "hidden_states.1", "hidden_states.2"]);
      expect(penultimate.flatten().toNumbers()).toEqual(states.get("hidden_states.1") as number[]);
    });
  });

  test("another size is refused, or its positions are resized", () => {
    using model = made();
    scope(() => {
      const wide = noise([1, 3, 21, 36]);
      expect(() => model.embedImages(wide)).toThrow(/images of 28 x 28, not 36 x 21/);
      expect(noGrad(() => model.vision_model.forward(wide, { interpolate: true })).shape).toEqual([1, 1 + 3 * 5, 30]);
    });
  });

  test("a text means the same whatever stands behind its end token", () => {
    using model = made();
    scope(() => {
      const short = tensor([[1, 7, 49]], { dtype: "int64" });
      const padded = tensor([[1, 7, 49, 49, 3]], { dtype: "int64" });
      const mask = tensor([[1, 1, 1, 0, 0]], { dtype: "int64" });
      const [a, b, c] = noGrad(() => [
        model.embedTexts(short),
        model.embedTexts(padded),
        model.embedTexts(padded, mask),
      ]) as [Tensor, Tensor, Tensor];
      expect(allClose(a, b, { atol: 1e-6 })).toBe(true);
      expect(allClose(a, c, { atol: 1e-6 })).toBe(true);
      expect(() => model.embedTexts(tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9, 49]], { dtype: "int64" }))).toThrow(
        /reads 9 tokens/,
      );
    });
  });

  test("padding in front gives numbers, not NaN", () => {
    using model = made();
    scope(() => {
      const ids = tensor([[0, 0, 1, 49]], { dtype: "int64" });
      const mask = tensor([[0, 0, 1, 1]], { dtype: "int64" });
      expect(
        noGrad(() => model.embedTexts(ids, mask))
          .isFinite()
          .all()
          .item(),
      ).toBe(1);
    });
  });

  test("gradients reach the images", () => {
    using model = made();
    scope(() => {
      const pixels = noise([1, 3, 28, 28]).requiresGrad_();
      model.embedImages(pixels).square().sum().backward();
      expect((pixels.grad as Tensor).abs().max().item()).toBeGreaterThan(0);
    });
  });
});

describe("folders", () => {
  test("of the whole model serve both towers; counters and the other tower are left out", () => {
    using model = made();
    using ids = tensor([[0, 1, 2]], { dtype: "int64" });
    const folder = folderOf(model, file, { "vision_model.embeddings.position_ids": ids });
    using whole = loadClip(folder, { device: "cpu" }).model;
    using vision = loadVision(folder, { device: "cpu" }).model;
    expect(visionBytes(folder)).toBe(vision.bytes("float32"));
    expect(visionBytes(folder, "bfloat16")).toBe(vision.bytes("bfloat16"));
    scope(() => {
      const pixels = noise([1, 3, 28, 28]);
      const [a, b, c] = noGrad(() => [model, whole, vision].map((each) => each.embedImages(pixels))) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      expect(allClose(a, b, { rtol: 0, atol: 0 })).toBe(true);
      expect(allClose(a, c, { rtol: 0, atol: 0 })).toBe(true);
    });
  });

  test("of 2022 say more in *_config_dict than in *_config", () => {
    using model = made();
    const folder = folderOf(model, {
      ...file,
      vision_config: { hidden_size: 1 },
      text_config: null,
      vision_config_dict: vision_config,
      text_config_dict: text_config,
      torch_dtype: "float32",
    });
    using again = loadClip(folder, { device: "cpu" }).model;
    expect(again.numParameters()).toBe(model.numParameters());
  });

  test("in bfloat16 stay near", () => {
    using model = made();
    using half = loadVision(folderOf(model), { device: "cpu", dtype: "bfloat16" }).model;
    scope(() => {
      const pixels = noise([1, 3, 28, 28]);
      const [a, b] = noGrad(() => [unit(model.embedImages(pixels)), unit(half.embedImages(pixels).float())]) as [
        Tensor,
        Tensor,
      ];
      // 8 bits of mantissa, two layers
      expect(a.mul(b).sum().item()).toBeGreaterThan(0.999);
    });
  });

  test.each([
    ["no config", undefined, /no config.json/],
    ["another model", { model_type: "bert" }, /a bert, not CLIP/],
    [
      "heads that do not divide",
      { ...file, vision_config: { ...vision_config, num_attention_heads: 4 } },
      /no multiple/,
    ],
    [
      "a missing layer",
      { ...file, vision_config: { ...vision_config, num_hidden_layers: 3 } },
      /missing \(16\).*layers\.2/,
    ],
    ["another width", { ...file, projection_dim: 13 }, /wrong shape.*visual_projection/],
  ])("%s is one sentence", (_, config, message) => {
    using model = made();
    const folder = config === undefined ? mkdtempSync(join(tmpdir(), "clip-")) : folderOf(model, config);
    expect(() => loadClip(folder, { device: "cpu" })).toThrow(message);
  });

  test("the vision tower alone has no texts", () => {
    using model = made();
    const folder = folderOf(model, { architectures: ["CLIPVisionModel"], projection_dim: 12, ...vision_config });
    expect(readConfig(folder).whole).toBeUndefined();
    expect(() => loadClip(folder, { device: "cpu" })).toThrow(/vision tower alone/);
  });
});

test("encodeImage gives the penultimate states of images of any size, preprocessed by the pipeline's own processor", async () => {
  using model = made();
  const pipeline = mkdtempSync(join(tmpdir(), "clip-pipeline-"));
  const folder = join(pipeline, "image_encoder");
  renameSync(folderOf(model, { architectures: ["CLIPVisionModel"], projection_dim: 12, ...vision_config }), folder);
  mkdirSync(join(pipeline, "image_processor"));
  writeFileSync(
    join(pipeline, "image_processor/preprocessor_config.json"),
    JSON.stringify({ size: { shortest_edge: 28 }, crop_size: 28, image_mean: [0, 0, 0], image_std: [1, 1, 1] }),
  );
  await using ctx = await testContext({ plugins: ["clip"] });
  const encoder = await (await ctx.use("encodeImage", "clip", { path: folder }))({});
  scope(() => {
    const images = noise([2, 3, 28, 40]).mul(40).add(120).clamp(0, 255).to("uint8");
    const tokens = encoder.encode(images);
    expect(tokens.shape).toEqual([2, 17, 30]);
    // nothing to resize: the middle 28 columns, from 0 to 1
    const pixels = images.narrow(3, 6, 28).to("float32").div(255);
    const want = model.vision_model.forward(pixels, { skipLast: 1 });
    expect(allClose(tokens, want, { atol: 1e-5 })).toBe(true);
  });
});

describe("embed", () => {
  const clipOf = (levels: readonly number[], size = 224): ClipFrames => {
    const id = `sha256:${"0".repeat(64)}` as ClipFrames["clip"]["id"];
    async function* frames(): AsyncGenerator<FrameBatch> {
      for (const [i, level] of levels.entries())
        yield {
          data: new Uint8Array(size * size * 3).map((_, at) => (at * level) % 251),
          count: 1,
          width: size,
          height: size,
          format: "rgb24",
          times: [i],
        };
    }
    const source = {
      id,
      path: "x",
      tag: "x",
      width: size,
      height: size,
      fps: 1,
      numFrames: levels.length,
      duration: levels.length,
      bitrate: 0,
      codec: "x",
    };
    return { clip: { id, source: id, start: 0, end: levels.length }, source, frames: frames() };
  };

  test("without weights it refuses with one sentence", async () => {
    await using ctx = await testContext({ plugins: ["clip"] });
    await expect(ctx.use("embed", "clip")).rejects.toThrow("no weights of CLIP are configured");
  });

  test("a clip's vector has length 1, is its frames' mean, and is found by configuration", async () => {
    using model = made();
    const folder = folderOf(model);
    await using ctx = await testContext({ plugins: ["clip"], config: { clip: { path: folder } } });
    const embed = await ctx.use("embed", "clip");
    const [both, first, second] = [
      await embed(clipOf([3, 7])),
      await embed(clipOf([3])),
      await embed(clipOf([7])),
    ] as const;
    expect(both.length).toBe(12);
    expect(Math.hypot(...both)).toBeCloseTo(1, 5);
    const sum = first.map((value, i) => value + (second[i] as number));
    const length = Math.hypot(...sum);
    for (const [i, value] of both.entries()) expect(value).toBeCloseTo((sum[i] as number) / length, 5);
    await expect(embed(clipOf([]))).rejects.toThrow(/without frames/);
  });
});
