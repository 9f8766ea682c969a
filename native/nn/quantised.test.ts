import { describe, expect, test } from "bun:test";
import {
  allClose,
  allocatedBytes,
  arange,
  type DType,
  dequantised,
  empty,
  float8Linear,
  Generator,
  Linear,
  type LowRank,
  linear,
  linearGelu,
  linears,
  Module,
  noGrad,
  one,
  op,
  outline,
  packLinears,
  peakBytes,
  quantised,
  randn,
  resetPeakBytes,
  schema,
  scope,
  setThreads,
  type Tensor,
  tensor,
  throughBlocks,
  type WeightForm,
  type WeightSource,
  withLowRank,
  withMatmulDtype,
} from "../index.ts";

setThreads(1);

const FORMS = ["int8", "fp8"] as const satisfies readonly WeightForm[];

class Block extends Module {
  readonly mod = new Linear(48, 96, { precise: true });
  readonly up = new Linear(48, 65);
  readonly down = new Linear(65, 48, { bias: false });
  readonly gate = new Linear(48, 8); // 384 weights
  forward(x: Tensor): Tensor {
    return x.add(this.down.forward(this.up.forward(x).silu()).mul(this.mod.forward(x).narrow(-1, 0, 48)));
  }
}
class Net extends Module {
  readonly first = new Linear(48, 48);
  readonly blocks = [new Block(), new Block()];
  override runsBlocks(): readonly Module[] {
    return this.blocks;
  }
  forward(x: Tensor): Tensor {
    return throughBlocks(this.blocks, this.first.forward(x), (block, x) => block.forward(x));
  }
}
const made = (weights?: WeightForm, dtype: DType = "float32"): Net => {
  using generator = new Generator(3);
  return new Net().init(generator, { dtype, weights });
};
const drawn = (shape: number[], seed = 5, dtype: DType = "float32"): Tensor => {
  using generator = new Generator(seed);
  return scope(() => randn(shape, { generator }).to(dtype));
};
const max = (t: Tensor): number => scope(() => t.abs().max().item());
/** Signal to noise in decibels. */
const snr = (want: Tensor, got: Tensor): number =>
  scope(() => 10 * Math.log10(want.square().mean().item() / got.sub(want).square().mean().item()));

describe.each([
  [7, 5],
  [64, 96],
  [1, 1],
  [3, 4099],
])("a weight of %i x %i", (out, into) => {
  test("in int8 is off by half a step at most, a step a row", () => {
    scope(() => {
      const w = drawn([out, into]).mul(drawn([out, 1], 6).exp()); // rows of unlike size
      const [values, scale] = quantised(w, "int8");
      expect([values.dtype, values.shape, scale.shape]).toEqual(["int8", [out, into], [out, 1]]);
      const steps = dequantised(values, scale, "float32").sub(w).abs().div(scale);
      expect(max(steps)).toBeLessThanOrEqual(0.5 + 2 ** -16); // w / scale is rounded to float32 first: 127 has 17 bits behind the point
      // no step is larger than 127 of them need; the scale is rounded to 8 bits
      expect(
        max(
          scale
            .mul(127)
            .div(w.abs().amax([1], true))
            .sub(1),
        ),
      ).toBeLessThanOrEqual(2 ** -8 + 2 ** -20);
    });
  });

  test("in fp8 is off by a sixteenth at most, and by half the smallest number where it is small", () => {
    scope(() => {
      const w = drawn([out, into]).mul(drawn([out, 1], 6).exp());
      const [values, scale] = quantised(w, "fp8");
      expect([values.dtype, values.shape, scale.shape]).toEqual(["float8_e4m3fn", [out, into], [out, 1]]);
      const exponent = scale.log2();
      expect(max(exponent.sub(exponent.round()))).toBe(0);
      const back = dequantised(values, scale, "float32");
      // 3 bits of mantissa: 2^-4 of the value; subnormals are 2^-9 apart
      const allowed = w
        .abs()
        .mul(2 ** -4)
        .maximum(scale.mul(2 ** -10));
      expect(max(back.sub(w).abs().div(allowed))).toBeLessThanOrEqual(1);
      // what is of this form already stays so to the bit
      const [again, sameScale] = quantised(back, "fp8");
      expect(max(dequantised(again, sameScale, "float32").sub(back))).toBe(0);
    });
  });
});

test.each(FORMS)("%s: rows of zeros, of next to nothing and of no numbers", (form) => {
  scope(() => {
    const w = tensor([
      [0, 0, 0],
      [1e-40, -1e-38, 0],
      [1, Number.NaN, 2],
      [3, -1, 2],
      [65504, -3e38, 1],
    ]);
    const flat = dequantised(...quantised(w, form), "float32").toNumbers() as number[];
    const back = [0, 1, 2, 3, 4].map((row) => flat.slice(3 * row, 3 * row + 3)) as number[][];
    expect(back[0]).toEqual([0, 0, 0]);
    expect(back[1]?.every((value) => Math.abs(value) < 2 ** -100)).toBe(true);
    expect(back[2]?.some(Number.isNaN)).toBe(true); // a guard behind it shall see that
    expect(back[3]?.map(Math.round)).toEqual([3, -1, 2]);
    expect(back[4]?.every(Number.isFinite)).toBe(true);
  });
});

test.each(["float32", "bfloat16", "float16"] as const)("every code of fp8 comes back as it is, in %s", (dtype) => {
  scope(() => {
    const codes = op("aten::view", "dtype")(arange(256).to("uint8"), "float8_e4m3fn");
    const numbers = codes.toNumbers() as number[];
    const real = numbers.flatMap((value, i) => (Number.isNaN(value) ? [] : [i]));
    expect(real).toHaveLength(254);
    for (const scale of [1, 0.25, 2 ** 20]) {
      const back = dequantised(
        codes.view([256, 1]),
        tensor([[scale]])
          .expand([256, 1])
          .contiguous(),
        dtype,
      );
      const got = back.toNumbers() as number[];
      const most = dtype === "float16" ? 65504 : Number.POSITIVE_INFINITY;
      for (const i of real) {
        const want = scale * (numbers[i] as number);
        if (Math.abs(want) <= most) expect([i, got[i]]).toEqual([i, want]);
      }
    }
  });
});

describe.each(FORMS)("linear layers in %s", (form) => {
  const LEAST_DECIBELS = {
    // a step is 1/127 of about 2.5 deviations (the largest of 48), its noise a 12th of its square: 45 dB
    int8: 42,
    // 2^-4 of the value at most, evenly: between 30 and 36 dB by where in its binade it lies
    fp8: 30,
  } as const;

  test.each(["float32", "bfloat16"] as const)("%s: multiply what they hold, to the bit", (dtype) => {
    using net = made(form, dtype);
    using plain = made(undefined, dtype);
    using x = drawn([2, 5, 48], 5, dtype);
    scope(() =>
      noGrad(() => {
        const [layer, whole] = [net.blocks[0]?.up as Linear, plain.blocks[0]?.up as Linear];
        const weight = dequantised(layer.weight, layer.weight_scale as Tensor, dtype);
        const y = layer.forward(x);
        expect([y.dtype, y.shape, layer.dtype]).toEqual([dtype, [2, 5, 65], dtype]);
        expect(max(y.sub(linear(x, weight, layer.bias)))).toBe(0);
        const want = whole
          .forward(x)
          .float()
          .sub(whole.bias?.float() as Tensor);
        const got = y.float().sub(layer.bias?.float() as Tensor);
        // bfloat16 rounds both results, to 8 bits: 50 dB, which takes a little off int8's
        expect(snr(want, got)).toBeGreaterThan(LEAST_DECIBELS[form] - (dtype === "bfloat16" ? 3 : 0));
        for (const [i, each] of linears([layer, layer], x).entries()) expect([i, max(each.sub(y))]).toEqual([i, 0]);
        packLinears(net);
        expect(max(layer.forward(x).sub(y))).toBe(0);
        expect(allClose(linearGelu(layer, x), y.gelu("tanh"), { atol: 2 ** -7, rtol: 2 ** -7 })).toBe(true);
      }),
    );
  });

  test("hold what PyTorch's own operator multiplies", () => {
    scope(() => {
      const [x, w] = [drawn([3, 64]), drawn([32, 64], 6)];
      const [values, scale] = quantised(w, form);
      if (form === "int8") {
        const y = one(schema("aten::_weight_int8pack_mm"), x, values, scale.flatten());
        // the same products, the scale at their end: 64 sums of float32
        expect(allClose(linear(x, dequantised(values, scale, "float32")), y, { atol: 1e-5, rtol: 1e-5 })).toBe(true);
        return;
      }
      const bias = drawn([32], 7, "bfloat16");
      const [input, odd] = [x.to("bfloat16"), drawn([2, 1, 64], 8, "bfloat16")];
      for (const each of [input, odd]) {
        const y = float8Linear(each, values, scale, bias);
        expect([y.dtype, y.shape]).toEqual(["bfloat16", [...each.shape.slice(0, -1), 32]]);
        const rows = each.float().reshape([-1, 64]);
        const step = rows.abs().amax([1], true).div(448);
        const held = rows.div(step).to("float8_e4m3fn").float().mul(step);
        const want = linear(held, dequantised(values, scale, "float32"), bias.float()).view(y.shape);
        expect(max(y.float().sub(want).div(want.abs().add(1)))).toBeLessThan(2 ** -8); // one rounding to bfloat16
        // and that is a product of x: its own rounding comes on top of the weights'
        expect(snr(linear(each.float(), w, bias.float()), y.float())).toBeGreaterThan(LEAST_DECIBELS.fp8 - 3);
      }
    });
  });

  test("carry what rides on them, and compute in another dtype when told to", () => {
    using net = made(form);
    using x = drawn([4, 48]);
    scope(() =>
      noGrad(() => {
        const layer = net.blocks[1]?.up as Linear;
        const addition: LowRank = { down: drawn([2, 48], 7), up: drawn([65, 2], 8), scale: 0.5 };
        const plain = layer.forward(x);
        const adapted = withLowRank(new Map([[layer, addition]]), () => layer.forward(x));
        const want = plain.add(linear(linear(x, addition.down).mul(0.5), addition.up));
        expect(allClose(adapted, want, { atol: 1e-5, rtol: 1e-5 })).toBe(true);
        const low = withMatmulDtype("bfloat16", () => layer.forward(x));
        const lowWeight = dequantised(layer.weight, layer.weight_scale as Tensor, "bfloat16");
        const exact = linear(x.to("bfloat16"), lowWeight, layer.bias?.to("bfloat16")).float();
        expect([low.dtype, max(low.sub(exact))]).toEqual(["float32", 0]);
      }),
    );
  });

  test("and nothing else: what is small, precise or outside the blocks stays", () => {
    using net = made(form);
    const stored = form === "int8" ? "int8" : "float8_e4m3fn";
    const dtypes = Object.fromEntries(Array.from(net.namedWeights(), ([name, p]) => [name, p.dtype]));
    for (const i of [0, 1]) {
      expect([dtypes[`blocks.${i}.up.weight`], dtypes[`blocks.${i}.down.weight`]]).toEqual([stored, stored]);
      expect(dtypes[`blocks.${i}.up.weight_scale`]).toBe("float32");
      for (const name of ["up.bias", "mod.weight", "gate.weight"])
        expect(dtypes[`blocks.${i}.${name}`]).toBe("float32");
    }
    expect(dtypes["first.weight"]).toBe("float32");
  });

  test("a network computes nearly the same, and converted to another dtype exactly the same", () => {
    using net = made(form);
    using plain = made();
    using x = drawn([4, 48]);
    scope(() =>
      noGrad(() => {
        const y = net.forward(x);
        expect(snr(plain.forward(x), y)).toBeGreaterThan(LEAST_DECIBELS[form]);
        net.to({ dtype: "float32" });
        expect(max(net.forward(x).sub(y))).toBe(0);
        expect(max(net.forward(x).sub(y))).toBe(0); // nor did that change them
      }),
    );
  });

  test("load a layer at a time into a quarter of float32's memory", () => {
    class Wide extends Module {
      readonly blocks = Array.from({ length: 8 }, () => [new Linear(512, 1024), new Linear(1024, 512)]).map((layers) =>
        Object.assign(new Module(), { layers }),
      );
      override runsBlocks(): readonly Module[] {
        return this.blocks;
      }
    }
    const plain = new Wide();
    const numWeights = 8 * 2 * 512 * 1024;
    const shapes = new Map(Array.from(plain.namedWeights(), ([name, p]) => [name, p.declaredShape]));
    const source: WeightSource = { keys: [...shapes.keys()], get: (key) => drawn([...(shapes.get(key) ?? [])]) };
    const before = allocatedBytes();
    resetPeakBytes();
    using net = new Wide().load(source, { weights: form });
    const held = allocatedBytes() - before;
    const beside = 8 * (1024 + 512) * (4 + 4); // scales and biases
    expect(net.loadedBytes()).toBe(numWeights + beside);
    // libtorch rounds each tensor up to 64 bytes
    expect(held).toBeGreaterThanOrEqual(numWeights + beside);
    expect(held).toBeLessThan(numWeights + beside + 64 * 8 * 6);
    // one layer of 2 MB as it is read, its absolute values, quotient and codes; the network in float32 would be 32 MB
    expect(peakBytes() - before).toBeLessThan(held + 5 * 4 * 512 * 1024);
  });

  test("have shapes without data", () => {
    using generator = new Generator(0);
    using net = new Net().init(generator, { device: "meta", dtype: "bfloat16", weights: form });
    using real = made(form, "bfloat16");
    expect(net.loadedBytes()).toBe(real.loadedBytes());
    scope(() => {
      const x = empty([4, 48], { device: "meta", dtype: "bfloat16" });
      const plain = made(undefined, "bfloat16");
      const { flops, result } = outline("cpu", () => net.forward(x));
      expect([result.shape, result.dtype]).toEqual([[4, 48], "bfloat16"]);
      plain.dispose();
      expect(flops).toBe(2 * 4 * 48 * (48 + 2 * (2 * 65 + 96)));
    });
  });
});

test("a network that has no such layers says so", () => {
  class Small extends Module {
    readonly blocks = [new Linear(8, 8)];
    override runsBlocks(): readonly Module[] {
      return this.blocks;
    }
  }
  using generator = new Generator(0);
  for (const net of [new Small(), new Linear(64, 64)])
    expect(() => net.init(generator, { weights: "int8" })).toThrow(
      "int8 keeps linear layers of at least 1024 weights inside a network's blocks in 8 bits, and this network has none",
    );
});
