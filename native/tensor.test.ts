import { describe, expect, test } from "bun:test";
import * as w from "./index.ts";

const numbers = (f: () => w.Tensor) => w.scope(() => f().toNumbers());
const close = (got: number[], want: number[], digits = 5) => {
  expect(got.length).toBe(want.length);
  got.forEach((x, i) => {
    expect(x).toBeCloseTo(want[i] as number, digits);
  });
};
function thrown(f: () => unknown): w.EngineError {
  try {
    w.scope(() => void f());
  } catch (e) {
    expect(e).toBeInstanceOf(w.EngineError);
    return e as w.EngineError;
  }
  throw new Error("nothing was thrown");
}

describe("making tensors", () => {
  test("nested arrays give the shape, typed arrays the dtype", () => {
    w.scope(() => {
      expect(w.tensor([[1, 2, 3]]).shape).toEqual([1, 3]);
      expect(w.tensor(5).shape).toEqual([]);
      expect(w.tensor([]).shape).toEqual([0]);
      expect(w.tensor([true, false]).dtype).toBe("bool");
      expect(w.tensor(BigInt64Array.of(1n)).dtype).toBe("int64");
      expect(w.tensor([1.5], { dtype: "bfloat16" }).dtype).toBe("bfloat16");
      expect(w.tensor([2 ** 53 - 1], { dtype: "int64" }).toArray()).toEqual(BigInt64Array.of(2n ** 53n - 1n));
    });
    expect(thrown(() => w.tensor([[1, 2], [3]])).code).toBe("tensor_shape");
    expect(thrown(() => w.tensor([1, [2]])).code).toBe("tensor_shape");
  });
  test("bytes go in and out unchanged, also of strided views", () => {
    w.scope(() => {
      const bytes = Uint8Array.of(0x80, 0x3f, 0, 0x40);
      const t = w.fromBytes(bytes, "bfloat16", [2]);
      expect(t.toNumbers()).toEqual([1, 2]);
      expect(t.bytes()).toEqual(bytes);
      expect(
        w
          .tensor([
            [1, 2],
            [3, 4],
          ])
          .transpose(0, 1)
          .toNumbers(),
      ).toEqual([1, 3, 2, 4]);
    });
    expect(thrown(() => w.fromBytes(new Uint8Array(3), "float32", [1])).message).toContain("needs 4 bytes, 3 given");
  });
  test("arange and full keep the asked dtype", () => {
    w.scope(() => {
      expect(w.arange(3).dtype).toBe("int64");
      expect(w.arange(0, 1, 0.25).toNumbers()).toEqual([0, 0.25, 0.5, 0.75]);
      expect(w.full([2], 3, { dtype: "float64" }).dtype).toBe("float64");
      expect(w.linspace(0, 1, 3).toNumbers()).toEqual([0, 0.5, 1]);
    });
  });
});

describe("generators", () => {
  test("randn is PyTorch's, bit for bit", () => {
    using g = new w.Generator(0);
    // torch.manual_seed(0); torch.randn(3)
    close(
      numbers(() => w.randn([3], { generator: g })),
      [1.5409960746765137, -0.293428897857666, -2.1787893772125244],
      12,
    );
  });
  test("the state resumes the stream; seeds span 64 bits", () => {
    using g = new w.Generator(2n ** 64n - 1n);
    const state = g.getState();
    const first = numbers(() => w.randn([20], { generator: g }));
    g.setState(state);
    expect(numbers(() => w.randn([20], { generator: g }))).toEqual(first);
    expect(() => new w.Generator(-1)).toThrow("outside");
  });
  test("there is no global generator to fall back on", () => {
    // @ts-expect-error the generator is required
    expect(thrown(() => w.randn([1], {})).code).toBe("op_arguments");
  });
});

describe("operators by hand", () => {
  const a = () =>
    w.tensor([
      [1, -2],
      [3, 4],
    ]);
  const cases: [string, () => w.Tensor, number[]][] = [
    ["add alpha", () => a().add(1, 2), [3, 0, 5, 6]],
    ["sub", () => a().sub(a(), 0.5), [0.5, -1, 1.5, 2]],
    ["rsub", () => a().rsub(1), [0, 3, -2, -3]],
    ["div", () => a().div(2), [0.5, -1, 1.5, 2]],
    ["divFloor", () => w.tensor([7, -7], { dtype: "int64" }).divFloor(2), [3, -4]],
    ["remainder", () => a().remainder(3), [1, 1, 0, 1]],
    ["pow", () => a().pow(2), [1, 4, 9, 16]],
    ["clamp", () => a().clamp(0, 3), [1, 0, 3, 3]],
    ["clamp one side", () => a().clamp(null, 3), [1, -2, 3, 3]],
    ["silu", () => w.tensor([1]).silu(), [0.7310586]],
    ["gelu tanh", () => w.tensor([1]).gelu("tanh"), [0.841192]],
    ["where number", () => a().where(a().gt(0), 9), [1, 9, 3, 4]],
    ["maskedFill", () => a().maskedFill(a().lt(0), 0), [1, 0, 3, 4]],
    ["lerp", () => w.tensor([0, 1]).lerp(w.tensor([10, 11]), 0.1), [1, 2]],
    ["addcmul", () => w.tensor([1]).addcmul(w.tensor([2]), w.tensor([3]), 0.5), [4]],
    ["matmul", () => a().matmul(a()), [-5, -10, 15, 10]],
    ["addmm", () => a().addmm(a(), a(), { beta: 0 }), [-5, -10, 15, 10]],
    ["permute", () => a().permute([1, 0]), [1, 3, -2, 4]],
    ["slice", () => w.arange(10).slice(0, 1, 8, 3), [1, 4, 7]],
    ["roll", () => w.arange(4).roll(1, 0), [3, 0, 1, 2]],
    ["flip", () => w.arange(3).flip(0), [2, 1, 0]],
    ["repeatInterleave", () => w.arange(2).repeatInterleave(2), [0, 0, 1, 1]],
    ["gather", () => a().gather(1, w.tensor([[1], [0]], { dtype: "int64" })), [-2, 3]],
    ["scatter", () => w.zeros([3]).scatter(0, w.tensor([1], { dtype: "int64" }), 5), [0, 5, 0]],
    ["index", () => a().index([null, w.tensor([1], { dtype: "int64" })]), [-2, 4]],
    ["sum dim", () => a().sum(0), [4, 2]],
    ["mean dims", () => a().mean([0, 1]), [1.5]],
    ["std", () => w.tensor([1, 2, 3]).std(), [1]],
    ["var of the population", () => w.tensor([1, 3]).var(0, false, 0), [1]],
    ["amax", () => a().amax(1), [1, 4]],
    ["argmax", () => a().argmax(), [3]],
    ["norm", () => w.tensor([3, 4]).norm(), [5]],
    ["softmax", () => w.tensor([0, 0]).softmax(0), [0.5, 0.5]],
    ["cumsum", () => w.tensor([1, 2, 3]).cumsum(0), [1, 3, 6]],
    ["triu", () => a().triu(1), [0, -2, 0, 0]],
    ["einsum", () => w.einsum("ij,j->i", a(), w.tensor([1, 1])), [-1, 7]],
    ["cat", () => w.cat([w.tensor([1]), w.tensor([2])]), [1, 2]],
    ["stack", () => w.stack([w.tensor([1]), w.tensor([2])], 1), [1, 2]],
    ["pad", () => w.pad(w.tensor([1, 2]), [1, 0]), [0, 1, 2]],
    ["interpolate", () => w.interpolate(w.tensor([[[[1, 2]]]]), { scale: 2 }), [1, 1, 2, 2, 1, 1, 2, 2]],
    [
      "interpolate bilinear",
      () => w.interpolate(w.tensor([[[[0, 1]]]]), { size: [1, 3], mode: "bilinear" }),
      [0, 0.5, 1],
    ],
    ["mse", () => w.mseLoss(w.tensor([1, 3]), w.tensor([0, 0])), [5]],
    ["cross entropy", () => w.crossEntropy(w.zeros([1, 4]), w.tensor([2], { dtype: "int64" })), [Math.log(4)]],
    ["layer norm", () => w.layerNorm(w.tensor([[-1, 1]]), [2], null, null, 0), [-1, 1]],
    ["rms norm", () => w.rmsNorm(w.tensor([[3, 4]]), w.tensor([1, 2]), 0), [3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5)]],
    ["conv1d", () => w.conv1d(w.tensor([[[1, 2, 3]]]), w.tensor([[[1, 1]]])), [3, 5]],
    [
      "avgPool2d",
      () =>
        w.avgPool2d(
          w.tensor([
            [
              [
                [1, 2],
                [3, 4],
              ],
            ],
          ]),
          2,
        ),
      [2.5],
    ],
    ["oneHot", () => w.oneHot(w.tensor([1], { dtype: "int64" }), 3), [0, 1, 0]],
  ];
  test.each(cases)("%s", (_, f, want) => close(numbers(f), want));

  test("several results", () => {
    w.scope(() => {
      const [values, indices] = w.tensor([2, 3, 1]).sort();
      expect([values.toNumbers(), indices.toNumbers()]).toEqual([
        [1, 2, 3],
        [2, 0, 1],
      ]);
      expect(
        w
          .arange(5)
          .split([2, 3])
          .map((t) => t.shape),
      ).toEqual([[2], [3]]);
      expect(w.tensor([2, 3, 1]).topk(1)[0].item()).toBe(3);
    });
  });
  test("numbers keep the dtype of the tensor", () => {
    w.scope(() => {
      expect(w.zeros([1], { dtype: "bfloat16" }).add(1.5).dtype).toBe("bfloat16");
      expect(w.arange(2).mul(2).dtype).toBe("int64");
      expect(w.arange(2).mul(0.5).dtype).toBe("float32");
      expect(w.op("aten::mul", "Scalar")(w.arange(2), w.scalar(2)).dtype).toBe("float32");
    });
  });
  test("in-place operators return the tensor itself", () => {
    w.scope(() => {
      const t = w.zeros([2]);
      expect(t.add_(1).mul_(3).clamp_(0, 2)).toBe(t);
      expect(t.toNumbers()).toEqual([2, 2]);
      expect(w.op("aten::add_", "Tensor")(t, t)).toBe(t);
    });
  });
  test("attention equals its formula", () => {
    using g = new w.Generator(1);
    w.scope(() => {
      const [q, k, v] = [0, 1, 2].map(() => w.randn([1, 2, 5, 8], { generator: g })) as [w.Tensor, w.Tensor, w.Tensor];
      const want = q.matmul(k.transpose(-1, -2)).div(Math.sqrt(8)).softmax(-1).matmul(v);
      expect(w.allClose(w.scaledDotProductAttention(q, k, v), want, { atol: 1e-6 })).toBe(true);
      const mask = w.ones([5, 5], { dtype: "bool" }).tril();
      const a = w.scaledDotProductAttention(q, k, v, { mask });
      expect(w.allClose(a, w.scaledDotProductAttention(q, k, v, { causal: true }), { atol: 1e-6 })).toBe(true);
    });
  });
});

describe("mistakes are errors", () => {
  test("both shapes and the operator are in the message", () => {
    const e = thrown(() => w.zeros([2, 3]).matmul(w.zeros([4, 5])));
    expect(e.code).toBe("op_failed");
    expect(e.message).toContain("aten::matmul");
    expect(e.message).toContain("float32[2,3]");
    expect(e.message).toContain("float32[4,5]");
    expect(e.message).not.toContain("Exception raised from");
  });
  test("a disposed tensor, and a slot that another tensor took since", () => {
    const t = w.zeros([1]);
    const { handle } = t;
    t.dispose();
    t.dispose();
    expect(thrown(() => t.add(1)).code).toBe("tensor_stale");
    using other = w.ones([1]);
    expect(other.handle % 2 ** 24).toBe(handle % 2 ** 24);
    const forged = Object.assign(Object.create(w.Tensor.prototype) as w.Tensor, { handle });
    expect(thrown(() => w.one(w.schema("aten::neg"), forged)).code).toBe("tensor_stale");
  });
  test("wrong arguments name the argument", () => {
    const add = w.op("aten::add", "Tensor");
    expect(thrown(() => add(w.zeros([1]), 2)).message).toContain("other must be a tensor");
    expect(thrown(() => add(w.zeros([1]))).message).toContain("other is missing");
    expect(thrown(() => w.op("aten::nothing")()).code).toBe("op_unknown");
    expect(thrown(() => w.zeros([1]).narrow(0, 0.5, 1)).message).toContain("argument start expected an integer");
    expect(thrown(() => w.zeros([1]).to("cuda:99")).code).toBe("op_failed");
    // @ts-expect-error not a dtype
    expect(thrown(() => w.zeros([1], { dtype: "float7" })).message).toContain("float7");
    expect(thrown(() => w.zeros([2]).item()).code).toBe("tensor_shape");
  });
  test("memory that cannot be had", () => {
    expect(thrown(() => w.empty([2 ** 50])).code).toBe("out_of_memory");
    expect(thrown(() => w.empty([2 ** 62])).message).toContain("overflow");
  });
});

test("an interceptor sees every operator, not its own", () => {
  const seen: string[] = [];
  w.scope(() => {
    w.withInterceptor(
      {
        before: (op) => void seen.push(op.name),
        after: (_, __, r) => void (r instanceof w.Tensor && r.sum().dispose()),
      },
      () => w.zeros([2]).add(1).sum(0),
    );
    w.zeros([1]);
  });
  expect(seen).toEqual(["aten::zeros", "aten::add.Scalar", "aten::sum.dim_IntList"]);
});
