import { describe, expect, test } from "bun:test";
import {
  allClose,
  Generator,
  Linear,
  type LowRank,
  linearGelu,
  linears,
  liveTensors,
  Module,
  noGrad,
  packLinears,
  randn,
  scope,
  setThreads,
  type Tensor,
  withLowRank,
} from "../index.ts";

setThreads(1);

class Three extends Module {
  readonly layers = [new Linear(24, 24), new Linear(24, 40), new Linear(24, 8)];
}
class Bare extends Module {
  readonly layers = [new Linear(24, 16, { bias: false })];
}
const made = <M extends Module>(net: M, dtype: "float32" | "bfloat16"): M => {
  using generator = new Generator(3);
  return net.init(generator, { dtype });
};
const input = (dtype: "float32" | "bfloat16"): Tensor => {
  using generator = new Generator(4);
  return scope(() => randn([2, 5, 24], { generator }).to(dtype));
};
// float32 is not packed. bfloat16: one rounding of a value below 4, which the plain GELU makes twice.
const CLOSE = { float32: { atol: 1e-6, rtol: 1e-5 }, bfloat16: { atol: 2 ** -6, rtol: 2 ** -7 } } as const;

describe.each(["float32", "bfloat16"] as const)("packed linear layers in %s", (dtype) => {
  test("give what plain ones give, alone, side by side and with GELU inside", () => {
    using net = made(new Three(), dtype);
    using x = input(dtype);
    scope(() =>
      noGrad(() => {
        const all = (): Tensor[] => [
          ...net.layers.map((layer) => layer.forward(x)),
          ...linears(net.layers, x),
          linearGelu(net.layers[1] as Linear, x),
        ];
        const plain = all();
        packLinears(net);
        for (const [i, each] of all().entries()) {
          expect(each.shape).toEqual((plain[i] as Tensor).shape);
          expect([i, allClose(each, plain[i] as Tensor, CLOSE[dtype])]).toEqual([i, true]);
        }
      }),
    );
  });

  test("follow their weights: changed in place, replaced, loaded again", () => {
    using net = made(new Three(), dtype);
    packLinears(net);
    using x = input(dtype);
    const agrees = (): boolean =>
      scope(() =>
        noGrad(() => {
          const [first] = linears(net.layers, x) as [Tensor];
          const { weight, bias } = net.layers[0] as Linear;
          return allClose(first, x.matmul(weight.transpose(0, 1)).add(bias as Tensor), CLOSE[dtype]);
        }),
      );
    expect(agrees()).toBe(true);
    noGrad(() => net.layers[0]?.weight.mul_(-2));
    expect(agrees()).toBe(true);
    noGrad(() => net.layers[0]?.bias?.add_(1));
    expect(agrees()).toBe(true);
    scope(() => net.layers[0]?.weight.materialise(net.layers[0].weight.detach().neg()));
    expect(agrees()).toBe(true);
  });

  test("carry what rides on them", () => {
    using net = made(new Three(), dtype);
    using x = input(dtype);
    scope(() =>
      noGrad(() => {
        const [first, second] = net.layers as [Linear, Linear, Linear];
        using generator = new Generator(6);
        const addition = (out: number): LowRank => ({
          down: randn([2, 24], { generator }).to(dtype),
          up: randn([out, 2], { generator }).to(dtype),
          scale: 0.1,
        });
        const additions = new Map([
          [first, addition(24)],
          [second, addition(40)],
        ]);
        const all = (): Tensor[] => [...linears(net.layers, x), linearGelu(second, x), first.forward(x)];
        const plain = withLowRank(additions, all);
        packLinears(net);
        for (const [i, each] of withLowRank(additions, all).entries())
          expect([i, allClose(each, plain[i] as Tensor, CLOSE[dtype])]).toEqual([i, true]);
      }),
    );
  });

  test("without a bias, and their second copy goes with the module", () => {
    const before = liveTensors();
    {
      using net = made(new Bare(), dtype);
      packLinears(net);
      using x = input(dtype);
      scope(() => {
        const [layer] = net.layers as [Linear];
        const y = noGrad(() => layer.forward(x));
        expect(allClose(y, x.matmul(layer.weight.transpose(0, 1)), CLOSE[dtype])).toBe(true);
        layer.weight.requiresGrad_();
        const z = layer.forward(x); // records a graph: the plain way
        expect(z.requiresGrad).toBe(true);
        expect(allClose(y, z, CLOSE[dtype])).toBe(true);
      });
    }
    expect(liveTensors()).toBe(before);
  });
});
