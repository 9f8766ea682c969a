import { describe, expect, test } from "bun:test";
import {
  channelNorm,
  conv2d,
  conv3d,
  countedFlops,
  embedding,
  Generator,
  gatedAddNorm,
  geluTanh,
  groupNorm,
  Linear,
  layerNorm,
  linear,
  linearGelu,
  noGrad,
  normRope,
  outline,
  outlinedBytes,
  packLinears,
  ratesOf,
  scaledDotProductAttention,
  scope,
  setThreads,
  type Tensor,
  where,
  zeros,
} from "./index.ts";

setThreads(1);
/** Each a computation on tensors that `make` gives, real or without data. */
const computations: Record<string, (make: (...shape: number[]) => Tensor) => Tensor> = {
  linear: (make) => linear(make(2, 5, 8), make(3, 8), make(3)),
  "products of matrices": (make) =>
    make(2, 4, 3)
      .matmul(make(2, 3, 7))
      .sum(-1),
  "a strided, padded, dilated convolution": (make) =>
    conv2d(make(2, 3, 11, 9), make(4, 3, 3, 2), make(4), { stride: [2, 1], padding: 1, dilation: [1, 2] }),
  "a convolution in three dimensions": (make) =>
    conv3d(make(1, 4, 5, 8, 6), make(6, 2, 1, 2, 2), null, { stride: [1, 2, 2], groups: 2 }),
  attention: (make) => scaledDotProductAttention(make(2, 3, 7, 8), make(2, 3, 5, 8), make(2, 3, 5, 4)),
  "norms of layers and groups": (make) =>
    groupNorm(layerNorm(make(2, 4, 6), [6], make(6), make(6)), 2, make(4), make(4)),
  "the fused parts of a block": (make) => {
    const [h, n] = gatedAddNorm(make(2, 5, 8), make(2, 5, 8), make(2, 1, 8), { scale: make(2, 1, 8), shift: null });
    return geluTanh(h.add(n)).add(
      normRope(make(2, 5, 8), { heads: 2, weight: make(4) })
        .transpose(1, 2)
        .flatten(2),
    );
  },
  "a norm over channels": (make) => channelNorm(make(1, 4, 2, 3, 3).contiguous("channels_last_3d"), make(4)),
  "rows by number": (make) => embedding(make(2, 3).to("int64"), make(10, 4)).indexSelect(1, make(2).to("int64")),
  "a choice": (make) => where(make(3, 1).gt(0), make(1, 4), make(3, 4)),
};

describe.each(Object.entries(computations))("%s", (_name, compute) => {
  const real = (...shape: number[]): Tensor => zeros(shape);
  const empty = (...shape: number[]): Tensor => zeros(shape, { device: "meta" });

  test("has the shape, the dtype and the arithmetic of the run", () => {
    scope(() => {
      const run = noGrad(() => countedFlops(() => compute(real)));
      const planned = outline("cpu", () => compute(empty));
      expect([planned.result.shape, planned.result.dtype]).toEqual([run.result.shape, run.result.dtype]);
      expect(planned.result.device).toBe("meta");
      expect(planned.flops).toBe(run.flops);
    });
  });
});

test("FLOPs are 2mnk a product, 4d a pair of query and key, and k a weight of a convolution", () => {
  scope(() => {
    const m = (...shape: number[]): Tensor => zeros(shape, { device: "meta" });
    expect(outline("cpu", () => linear(m(2, 5, 8), m(3, 8))).flops).toBe(2 * 2 * 5 * 8 * 3);
    expect(outline("cpu", () => scaledDotProductAttention(m(1, 2, 7, 8), m(1, 2, 5, 8), m(1, 2, 5, 8))).flops).toBe(
      4 * 2 * 7 * 5 * 8,
    );
    expect(outline("cpu", () => conv2d(m(1, 3, 8, 8), m(4, 3, 3, 3))).flops).toBe(2 * 4 * 36 * 27);
  });
});

test("a network of shapes takes no memory, and its size is counted", () => {
  const before = outlinedBytes();
  using generator = new Generator(0);
  using layer = new Linear(1 << 20, 1 << 16).init(generator, { device: "meta", dtype: "bfloat16" }); // 137 GB
  expect(outlinedBytes() - before).toBe(2 * ((1 << 20) * (1 << 16) + (1 << 16)));
  layer.dispose();
  expect(outlinedBytes()).toBe(before);
});

test("more arithmetic takes longer, and a rate is one of this machine", () => {
  const rates = ratesOf("cpu");
  scope(() => {
    const seconds = (n: number): number =>
      outline("cpu", () => linear(zeros([n, 512], { device: "meta" }), zeros([512, 512], { device: "meta" }))).seconds(
        rates,
      );
    expect(seconds(1 << 20) / seconds(1 << 16)).toBeGreaterThan(10);
    expect(seconds(1 << 20)).toBeGreaterThanOrEqual((2 * 2 ** 20 * 2 ** 18) / rates.flops.product("float32"));
    // it says what was measured
    expect(rates.said()["product float32 GFLOP/s"]).toBeCloseTo(rates.flops.product("float32") / 1e9, 0);
  });
});

test("a new layout costs what is copied for it, and nothing where it is but another look", () => {
  const rates = ratesOf("cpu");
  scope(() => {
    const seconds = (of: (x: Tensor) => Tensor): number => {
      const x = zeros([4096, 4096], { device: "meta" });
      return outline("cpu", () => of(x)).seconds(rates);
    };
    const look = seconds((x) => x.reshape([16, -1]));
    expect(look).toBe(rates.callSeconds.view);
    expect(seconds((x) => x.contiguous())).toBe(look);
    const copy = seconds((x) => x.transpose(0, 1).reshape([16, -1]));
    expect(copy).toBeGreaterThanOrEqual((2 * 4 * 4096 ** 2) / rates.bytes(2 ** 30));
    expect(seconds((x) => x.transpose(0, 1).contiguous())).toBeCloseTo(copy, 9);
  });
});

test("packed weights are counted with the weights, and what they save in between is", () => {
  using generator = new Generator(0);
  const peak = (packs: boolean): number =>
    scope(() => {
      using layer = new Linear(64, 256).init(generator, { device: "meta", dtype: "bfloat16" });
      if (packs) packLinears(layer);
      const x = zeros([1, 128, 64], { dtype: "bfloat16", device: "meta" });
      return outline("cpu", () => void linearGelu(layer, x)).peakBytes;
    });
  expect(peak(false)).toBe(2 * 2 * 128 * 256); // before GELU and after it
  expect(peak(true)).toBeLessThan(1.2 * 2 * 128 * 256);
});

test("an operator that knows no shapes says so outside of an outline", () => {
  scope(() => {
    expect(() => conv2d(zeros([1, 3, 8, 8], { device: "meta" }), zeros([4, 3, 3, 3], { device: "meta" }))).toThrow();
    expect(() => zeros([1], { device: "meta" }).item()).toThrow();
    expect(outline("cpu", () => zeros([1], { device: "meta" }).item()).result).toBe(1);
  });
});
