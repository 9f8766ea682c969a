import { describe, expect, test } from "bun:test";
import * as w from "./index.ts";

/** Analytic gradients against central differences, in float64. */
function check(f: (xs: w.Tensor[]) => w.Tensor, shapes: number[][]): void {
  using g = new w.Generator(3);
  w.scope(() => {
    const xs = shapes.map((s) => w.randn(s, { generator: g, dtype: "float64" }).requiresGrad_());
    const y = f(xs);
    const seed = w.randn(y.shape, { generator: g, dtype: "float64" });
    const loss = (v: w.Tensor[]) => w.scope(() => f(v).to("float64").mul(seed).sum().item());
    const grads = w.grad(y.to("float64").mul(seed).sum(), xs);
    xs.forEach((x, i) => {
      const flat = x.detach().toArray() as Float64Array;
      const analytic = (grads[i] as w.Tensor).toNumbers();
      for (let e = 0; e < flat.length; e++) {
        const at = (delta: number) =>
          w.scope(() => {
            const moved = flat.slice();
            moved[e] = (moved[e] as number) + delta;
            return loss(xs.map((o, j) => (j === i ? w.tensor(moved).view(x.shape) : o.detach())));
          });
        const numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
        expect(Math.abs(numeric - (analytic[e] as number))).toBeLessThan(1e-5 * (1 + Math.abs(numeric)));
      }
    });
  });
}

describe("gradients equal finite differences", () => {
  const cases: [string, (x: w.Tensor[]) => w.Tensor, number[][]][] = [
    [
      "matmul",
      ([a, b]) => a!.matmul(b!),
      [
        [2, 3],
        [3, 2],
      ],
    ],
    ["linear and gelu", ([x, W, b]) => w.linear(x!, W!, b!).gelu("tanh"), [[2, 3], [4, 3], [4]]],
    ["silu * sigmoid", ([x]) => x!.silu().mul(x!.sigmoid()), [[5]]],
    ["softmax", ([x]) => x!.softmax(-1), [[2, 4]]],
    ["layer norm", ([x, a, b]) => w.layerNorm(x!, [4], a!, b!), [[2, 4], [4], [4]]],
    ["group norm", ([x]) => w.groupNorm(x!, 2), [[1, 4, 3]]],
    [
      "conv3d",
      ([x, k]) => w.conv3d(x!, k!, null, { padding: 1 }),
      [
        [1, 1, 2, 2, 2],
        [1, 1, 3, 3, 3],
      ],
    ],
    [
      "attention",
      ([q, k, v]) => w.scaledDotProductAttention(q!, k!, v!),
      [
        [1, 1, 3, 4],
        [1, 1, 3, 4],
        [1, 1, 3, 4],
      ],
    ],
    ["slice, cat, permute", ([x]) => w.cat([x!.slice(0, 1), x!.narrow(0, 0, 1)]).permute([1, 0]), [[3, 2]]],
    ["where and clamp", ([x]) => x!.where(x!.gt(0), 0).clamp(-1, 1), [[6]]],
    ["interpolate", ([x]) => w.interpolate(x!, { scale: 2, mode: "bilinear" }), [[1, 1, 2, 2]]],
    ["index select", ([x]) => x!.indexSelect(0, w.tensor([1, 1, 0], { dtype: "int64" })), [[2, 2]]],
  ];
  test.each(cases)("%s", (_, f, shapes) => check(f, shapes));
});

test("gradients accumulate, belong to their tensor and are freed by zeroGrad", () => {
  const x = w.ones([2]).requiresGrad_();
  for (let i = 0; i < 2; i++) w.scope(() => x.mul(2).sum().backward());
  const g = x.grad as w.Tensor;
  expect(g.toNumbers()).toEqual([4, 4]);
  x.zeroGrad();
  expect(g.disposed).toBe(true);
  expect(x.grad).toBeNull();
  w.scope(() => {
    x.grad = w.full([2], 7);
  });
  expect(x.grad?.toNumbers()).toEqual([7, 7]);
  x.dispose();
  expect(w.liveTensors()).toBe(0);
});

test("modes nest, end with an exception, and refuse async functions", () => {
  w.scope(() => {
    const x = w.ones([1]).requiresGrad_();
    expect(w.noGrad(() => x.mul(2).requiresGrad)).toBe(false);
    expect(w.noGrad(() => w.enableGrad(() => x.mul(2).requiresGrad))).toBe(true);
    expect(() =>
      w.noGrad(() => {
        throw new Error("no");
      }),
    ).toThrow("no");
    expect(w.isGradEnabled()).toBe(true);
    expect(w.inferenceMode(() => x.mul(2).requiresGrad)).toBe(false);
    expect(() => w.noGrad(async () => 1)).toThrow("async");
    expect(() =>
      w
        .inferenceMode(() => w.ones([1]))
        .requiresGrad_()
        .mul(2),
    ).toThrow();
  });
});

test("grad gives second derivatives and names unused inputs", () => {
  w.scope(() => {
    const x = w.tensor([2]).requiresGrad_();
    const [first] = w.grad(x.pow(3).sum(), [x], { createGraph: true });
    expect(w.grad((first as w.Tensor).sum(), [x])[0]?.item()).toBe(12);
    const y = w.tensor([1]).requiresGrad_();
    expect(() => w.grad(x.sum(), [y])).toThrow();
    expect(w.gradAllowUnused(x.sum(), [y])).toEqual([null]);
  });
});

test("backward with chosen inputs, and without a graph", () => {
  w.scope(() => {
    const x = w.ones([1]).requiresGrad_();
    const y = w.ones([1]).requiresGrad_();
    w.backward([x.mul(y)], [w.tensor([5])], { inputs: [y] });
    expect(x.grad).toBeNull();
    expect(y.grad?.item()).toBe(5);
    expect(() => w.zeros([1]).backward()).toThrow("does not require grad");
  });
});
