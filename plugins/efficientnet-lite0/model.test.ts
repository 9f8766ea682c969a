import { afterAll, beforeAll, expect, test } from "bun:test";
import { Generator, grad, liveTensors, randn, scope, type Tensor, tensor } from "../../native/index.ts";
import golden from "../../test/golden/efficientnet-lite0.json";
import { EfficientNetLite0, FEATURES } from "./model.ts";
import { fetchWeights } from "./weights.ts";

let network: EfficientNetLite0;
beforeAll(async () => {
  network = new EfficientNetLite0(await fetchWeights({ signal: AbortSignal.timeout(300_000) }));
}, 310_000);
afterAll(() => network[Symbol.dispose]());

/** The golden input: sin(0.05 (c + 1) x + 0.03 (c + 2) y), [1 3 size size]. */
function waves(size: number): Tensor {
  const data = new Float32Array(3 * size * size);
  for (let c = 0, i = 0; c < 3; c++)
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++, i++) data[i] = Math.sin(0.05 * (c + 1) * x + 0.03 * (c + 2) * y);
  return tensor(data).reshape([1, 3, size, size]);
}

/** float32 against the reference's float64: 50 layers of it. */
const near = (found: readonly number[], wanted: readonly number[], scale: number): void => {
  for (const [i, value] of wanted.entries()) expect(Math.abs((found[i] as number) - value)).toBeLessThan(2e-4 * scale);
};

for (const wanted of golden.cases) {
  test(`${wanted.size} x ${wanted.size}: maps, features and classes are the reference's`, () => {
    scope(() => {
      const input = waves(wanted.size);
      const maps = network.features(input);
      maps.forEach((map, i) => {
        const { shape, mean, std, head } = wanted.maps[i]!;
        expect(map.shape).toEqual(shape);
        expect(Math.abs(map.mean().item() - mean)).toBeLessThan(1e-4 * std);
        expect(Math.abs(map.std(undefined, false, 0).item() - std)).toBeLessThan(1e-4 * std);
        near(map.flatten().narrow(0, 0, 8).toNumbers(), head, std);
      });
      const embedding = network.embed(input);
      expect(embedding.shape).toEqual([1, FEATURES]);
      near(embedding.narrow(1, 0, 48).toNumbers(), wanted.embedding, 1);
      expect(Math.abs(embedding.norm().item() / wanted.embeddingNorm - 1)).toBeLessThan(1e-4);
      near(network.classify(input).narrow(1, 0, 24).toNumbers(), wanted.logits, 5);
    });
  });
  test(`${wanted.size} x ${wanted.size}: the gradient reaches the input`, () => {
    scope(() => {
      const input = waves(wanted.size).requiresGrad_();
      const loss = network
        .features(input)
        .reduce((sum, map) => sum.add(map.square().mean()), tensor(0, { dtype: "float32" }));
      expect(Math.abs(loss.item() / wanted.loss - 1)).toBeLessThan(1e-4);
      const [gradient] = grad(loss, [input]) as [Tensor];
      expect(Math.abs(gradient.norm().item() / wanted.inputGradientNorm - 1)).toBeLessThan(1e-3);
      const row = gradient
        .select(0, 0)
        .select(0, 1)
        .select(0, wanted.size >> 1)
        .narrow(0, 0, 8)
        .toNumbers();
      near(row, wanted.inputGradient, wanted.inputGradientNorm / wanted.size);
    });
  });
}

test("a batch is its images one by one, and nothing stays behind", () => {
  const before = liveTensors();
  scope(() => {
    using generator = new Generator(7);
    const images = randn([3, 3, 64, 96], { generator }).clamp(-1, 1);
    const together = network.embed(images);
    const second = network.embed(images.narrow(0, 1, 1));
    near(together.select(0, 1).narrow(0, 0, 64).toNumbers(), second.flatten().narrow(0, 0, 64).toNumbers(), 1);
  });
  expect(liveTensors()).toBe(before);
});
