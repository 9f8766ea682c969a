import { describe, expect, test } from "bun:test";
import * as w from "../index.ts";

function setGrad(p: w.Tensor, values: number[]): void {
  w.scope(() => {
    p.grad = w.tensor(values).view(p.shape).to(p.dtype);
  });
}

/** The update of the paper, one number at a time, in float64. */
function closedForm(
  p: number,
  grads: number[],
  { lr = 0.1, b1 = 0.9, b2 = 0.99, eps = 1e-8, decay = 0.1 } = {},
): number {
  let [m, v] = [0, 0];
  grads.forEach((g, i) => {
    p -= lr * decay * p;
    m = b1 * m + (1 - b1) * g;
    v = b2 * v + (1 - b2) * g * g;
    p -= (lr * (m / (1 - b1 ** (i + 1)))) / (Math.sqrt(v / (1 - b2 ** (i + 1))) + eps);
  });
  return p;
}
const options = { lr: 0.1, betas: [0.9, 0.99] as const, weightDecay: 0.1 };

describe("AdamW", () => {
  test("equals the closed form; parameters without a gradient stay", () => {
    const p = w.tensor([1, -2]).requiresGrad_();
    const idle = w.tensor([3]).requiresGrad_();
    using opt = new w.AdamW([p, idle], options);
    const grads = [
      [0.5, -1],
      [0.1, 2],
      [-3, 0],
    ];
    for (const g of grads) {
      setGrad(p, g);
      opt.step();
      opt.zeroGrad();
    }
    p.toNumbers().forEach((x, i) => {
      expect(x).toBeCloseTo(
        closedForm(
          [1, -2][i] as number,
          grads.map((g) => g[i] as number),
        ),
        5,
      );
    });
    expect(idle.item()).toBe(3);
    p.dispose();
    idle.dispose();
  });
  test("groups have their own settings", () => {
    const [a, b] = [w.ones([1]).requiresGrad_(), w.ones([1]).requiresGrad_()];
    using opt = new w.AdamW(
      [
        { params: [["a", a]], weightDecay: 0 },
        { params: [["b", b]], lr: 0 },
      ],
      options,
    );
    setGrad(a, [1]);
    setGrad(b, [1]);
    opt.step();
    expect(a.item()).toBeCloseTo(0.9, 6);
    expect(b.item()).toBe(1);
    opt.setLr(0.5);
    expect(opt.groups.map((g) => g.lr)).toEqual([0.5, 0.5]);
    expect(() => new w.AdamW([{ params: [a] }, { params: [a] }], options)).toThrow("two groups");
    a.dispose();
    b.dispose();
  });
  test("bf16 weights move through a float32 master", () => {
    const p = w.ones([1], { dtype: "bfloat16" }).requiresGrad_();
    using opt = new w.AdamW([["p", p]], { lr: 1e-4, weightDecay: 0 });
    for (let i = 0; i < 50; i++) {
      setGrad(p, [1]);
      opt.step();
    }
    // each step alone is far below the spacing of bf16 at 1 (2^-8)
    expect(opt.stateDict()["p.master"]?.item()).toBeCloseTo(1 - 50e-4, 5);
    expect(p.item()).toBeLessThan(1);
    p.dispose();
  });
  test("a resumed run is the same run, bit for bit", () => {
    const train = (p: w.Tensor, opt: w.AdamW, from: number, to: number) => {
      for (let i = from; i < to; i++) {
        setGrad(p, [Math.sin(i), Math.cos(i)]);
        opt.step();
      }
    };
    const a = w.tensor([1, 2]).requiresGrad_();
    const b = w.tensor([1, 2]).requiresGrad_();
    using whole = new w.AdamW([["p", a]], options);
    using first = new w.AdamW([["p", b]], options);
    using second = new w.AdamW([["p", b]], options);
    train(a, whole, 0, 10);
    train(b, first, 0, 5);
    second.loadStateDict(first.stateDict());
    train(b, second, 5, 10);
    expect(b.toNumbers()).toEqual(a.toNumbers());
    expect(() => second.loadStateDict({ "q.step": a })).toThrow("unknown entries: q.step");
    expect(() => second.loadStateDict({ "p.step": b })).toThrow("is [2], [] is needed");
    a.dispose();
    b.dispose();
  });
});

test("clipGradNorm is PyTorch's", () => {
  const [a, b] = [w.zeros([1]).requiresGrad_(), w.zeros([1]).requiresGrad_()];
  setGrad(a, [3]);
  setGrad(b, [4]);
  expect(w.gradNorm([a, b])).toBe(5);
  expect(w.clipGradNorm([a, b], 10)).toBe(5);
  expect(a.grad?.item()).toBe(3);
  w.clipGradNorm([a, b], 1);
  expect(a.grad?.item()).toBeCloseTo(3 / (5 + 1e-6), 6);
  setGrad(b, [Number.NaN]);
  expect(w.clipGradNorm([a, b], 1)).toBeNaN();
  expect(a.grad?.item()).toBeCloseTo(0.6, 5);
  expect(w.clipGradNorm([], 1)).toBe(0);
  a.dispose();
  b.dispose();
});

test("Ema follows, swaps and resumes", async () => {
  const p = w.tensor([1]).requiresGrad_();
  using ema = new w.Ema([["p", p]], 0.9);
  w.noGrad(() => p.fill_(2));
  ema.update();
  expect(ema.stateDict()["p"]?.item()).toBeCloseTo(1.1, 6);
  await expect(ema.swapped(async () => p.item())).resolves.toBeCloseTo(1.1, 6);
  expect(p.item()).toBe(2);
  using other = new w.Ema([["p", p]], 0.9);
  other.loadStateDict(ema.stateDict());
  expect(other.stateDict()["p"]?.item()).toBe(ema.stateDict()["p"]?.item() as number);
  expect(() => new w.Ema([p], 2)).toThrow("outside");
  p.dispose();
});
