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
} from "../../native/index.ts";
import { testContext } from "../../test/support/context.ts";
import { checkPlugin, failures } from "../testing.ts";
import { loadDinov2, weightBytes } from "./checkpoint.ts";
import { Dinov2Images, TAPS } from "./images.ts";
import plugin from "./index.ts";
import { Dinov2 } from "./model.ts";
import { Dinov2Config, gatedWidth } from "./params.ts";

setThreads(1);

const file = {
  model_type: "dinov2",
  hidden_size: 30,
  num_hidden_layers: 3,
  num_attention_heads: 5,
  mlp_ratio: 2,
  image_size: 28,
  patch_size: 7,
};
const withRegisters = { ...file, model_type: "dinov2_with_registers", num_register_tokens: 3, use_swiglu_ffn: true };
const made = (config: object): Dinov2 => {
  using generator = new Generator(3);
  const model = new Dinov2(Dinov2Config.parse(config)).init(generator);
  // zeros by the initialiser, and then nobody would notice where they went
  const { register_tokens, mask_token } = model.embeddings;
  for (const token of [register_tokens, mask_token]) token?.fill_(0.3);
  return model;
};
const noise = (shape: number[], seed = 1): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};
function folderOf(model: Dinov2, config: object, prefix = "", extra: Readonly<Record<string, Tensor>> = {}): string {
  const folder = mkdtempSync(join(tmpdir(), "dinov2-"));
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const weights = [...model.stateDict()].map(([key, value]): [string, Tensor] => [prefix + key, value]);
  saveSafetensors(join(folder, "model.safetensors"), new Map([...weights, ...Object.entries(extra)]));
  return folder;
}

test("the plugin keeps the contract", async () => expect(failures(await checkPlugin(plugin))).toEqual([]));

describe.each([
  ["without registers", file, 0],
  ["with registers", withRegisters, 3],
])("the network %s", (_, config, R) => {
  test("takes any size, and a batch is its images alone", () => {
    using model = made(config);
    scope(() => {
      for (const [H, W] of [
        [28, 28],
        [14, 49],
        [30, 27],
      ] as const) {
        const pixels = noise([2, 3, H, W]);
        const states = noGrad(() => model.forward(pixels));
        expect(states.shape).toEqual([2, 1 + R + Math.floor(H / 7) * Math.floor(W / 7), 30]);
        for (const [i, image] of pixels.split(1).entries())
          expect(
            allClose(
              states.narrow(0, i, 1),
              noGrad(() => model.forward(image)),
              { atol: 1e-5 },
            ),
          ).toBe(true);
      }
      expect(() => model.forward(noise([1, 3, 6, 28]))).toThrow(/has no patch of 7/);
    });
  });

  test("hidden patches are not seen", () => {
    using model = made(config);
    scope(() => {
      const pixels = noise([1, 3, 28, 28]);
      const other = pixels.clone();
      other.narrow(2, 0, 7).narrow(3, 0, 7).fill_(9);
      const hidden = tensor([Array.from({ length: 16 }, (_, i) => i === 0)]);
      const [a, b] = noGrad(() => [model.forward(pixels, { hidden }), model.forward(other, { hidden })]) as [
        Tensor,
        Tensor,
      ];
      expect(allClose(a, b, { rtol: 0, atol: 0 })).toBe(true);
      expect(
        allClose(
          a,
          noGrad(() => model.forward(pixels)),
          { atol: 1e-3 },
        ),
      ).toBe(false);
    });
  });

  test("maps are the patches where they lie, at the depths asked for", () => {
    using model = made(config);
    scope(() => {
      const pixels = noise([2, 3, 14, 21]);
      const [first, last] = noGrad(() => model.maps(pixels, [1, 3])) as [Tensor, Tensor];
      expect(first.shape).toEqual([2, 30, 2, 3]);
      const states = noGrad(() => model.forward(pixels));
      expect(allClose(last.select(3, 2).select(2, 1), states.select(1, 1 + R + 5), { rtol: 0, atol: 0 })).toBe(true);
    });
  });

  test("is stored and loaded, alone or below a classifier", () => {
    using model = made(config);
    using head = noise([4, 60]);
    const folders = [
      folderOf(model, config),
      folderOf(model, { ...config, torch_dtype: "float32" }, `${config.model_type}.`, { "classifier.weight": head }),
    ];
    scope(() => {
      const pixels = noise([1, 3, 28, 28]);
      const want = noGrad(() => model.forward(pixels));
      for (const folder of folders) {
        using again = loadDinov2(folder, { device: "cpu" }).model;
        expect(weightBytes(folder)).toBe(model.bytes("float32"));
        expect(
          allClose(
            noGrad(() => again.forward(pixels)),
            want,
            { rtol: 0, atol: 0 },
          ),
        ).toBe(true);
      }
    });
  });
});

test("the giant's feed-forward has two thirds of the width, in eights", () => {
  // facebook/dinov2-giant: 1536 wide, 4096 inside
  expect(gatedWidth(Dinov2Config.parse({ model_type: "dinov2", hidden_size: 1536, num_attention_heads: 24 }))).toBe(
    4096,
  );
});

describe("providers", () => {
  test("without weights refuse with one sentence", async () => {
    await using ctx = await testContext({ plugins: ["dinov2"] });
    for (const hook of ["embed", "perceive"] as const)
      await expect(ctx.use(hook, "dinov2")).rejects.toThrow("no weights of DINOv2 are configured");
  });

  test("perceive gives four maps of images from -1 to 1, with gradients", async () => {
    using model = made(withRegisters);
    const path = folderOf(model, withRegisters);
    await using ctx = await testContext({ plugins: ["dinov2"] });
    const perception = await (await ctx.use("perceive", "dinov2", { path }))({});
    scope(() => {
      const images = noise([2, 3, 28, 35]).clamp(-1, 1).requiresGrad_();
      const maps = perception.features(images);
      expect(maps.map((map) => map.shape)).toEqual(Array(TAPS).fill([2, 30, 4, 5]));
      (maps.at(-1) as Tensor).square().sum().backward();
      expect((images.grad as Tensor).abs().max().item()).toBeGreaterThan(0);
    });
  });

  test("grey at ImageNet's mean is nothing to the network", async () => {
    using model = made(file);
    await using images = Dinov2Images.load(folderOf(model, file), { device: "cpu" });
    scope(() => {
      const mean = tensor([0.485, 0.456, 0.406]).mul(2).sub(1).view([1, 3, 1, 1]).expand([1, 3, 28, 28]);
      const want = noGrad(() => model.maps(noise([1, 3, 28, 28]).mul(0), [3])) as [Tensor];
      expect(allClose(noGrad(() => images.features(mean)).at(-1) as Tensor, want[0], { atol: 1e-5 })).toBe(true);
    });
    const data = new Uint8Array(3 * 40 * 30 * 3).map((_, i) => (i * 7) % 255);
    const sum = images.sumOf({ data, count: 3, width: 40, height: 30 });
    expect(sum.length).toBe(30);
  });
});
