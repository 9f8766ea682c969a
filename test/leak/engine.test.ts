// A thousand steps of training and of inference: neither handles nor bytes may grow.
import { expect, test } from "bun:test";
import * as w from "../../native/index.ts";

const STEPS = 1000;
const WARM = 20; // optimiser state and gradients exist after the first

class Net extends w.Module {
  readonly norm = new w.RMSNorm(32);
  readonly up = new w.Linear(32, 64);
  readonly down = new w.Linear(64, 32);
  forward(x: w.Tensor): w.Tensor {
    return w.gatedAdd(x, this.down.forward(this.up.forward(this.norm.forward(x)).gelu("tanh")), null);
  }
}

/** Runs `step` and expects the same handles and bytes after each hundred. */
function steady(step: (i: number) => void): void {
  for (let i = 0; i < WARM; i++) step(i);
  const handles = w.liveTensors();
  const bytes = w.allocatedBytes();
  for (let i = 0; i < STEPS; i++) {
    step(i);
    if (i % 100 === 99) expect([w.liveTensors(), w.allocatedBytes()]).toEqual([handles, bytes]);
  }
}

test("training", () => {
  using g = new w.Generator(0);
  using net = new Net().init(g);
  net.requiresGrad_();
  using opt = new w.AdamW(net.namedParameters(), { lr: 1e-3 });
  using ema = new w.Ema(net.namedParameters(), 0.99);
  const leakedBefore = w.leaked();
  steady(() => {
    w.scope(() => {
      const x = w.randn([2, 16, 32], { generator: g });
      w.withMatmulDtype("bfloat16", () => w.mseLoss(net.forward(x), x.mul(2))).backward();
    });
    w.clipGradNorm(net.namedParameters(), 1);
    opt.step();
    opt.zeroGrad();
    ema.update();
  });
  expect(w.leaked()).toBe(leakedBefore);
});

test("inference, with operators that fail now and then", () => {
  using g = new w.Generator(0);
  using net = new Net().init(g, { dtype: "bfloat16" });
  steady((i) => {
    try {
      w.scope(() =>
        w.inferenceMode(() => {
          const y = net.forward(w.randn([1, 8, 32], { generator: g, dtype: "bfloat16" }));
          if (i % 10 === 0) y.matmul(y);
          return y.sum().item();
        }),
      );
    } catch (e) {
      expect((e as w.EngineError).code).toBe("op_failed");
    }
  });
});
