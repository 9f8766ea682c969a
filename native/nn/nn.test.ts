import { describe, expect, test } from "bun:test";
import * as w from "../index.ts";

class Block extends w.Module {
  readonly norm = new w.RMSNorm(8);
  readonly up = new w.Linear(8, 16);
  readonly none = null;
  readonly down = new w.Linear(16, 8, { bias: false });
  forward(x: w.Tensor): w.Tensor {
    return this.down.forward(this.up.forward(this.norm.forward(x)).silu());
  }
}
class Net extends w.Module {
  readonly config = { dim: 8, names: ["a"] };
  readonly blocks = [new Block(), new Block()];
  readonly heads = { a: new w.Linear(8, 2) };
  readonly shift = this.parameter([8], w.normalInit(0.1));
  readonly seen = this.buffer([1]);
  readonly alias = this.shift;
}

describe("Module", () => {
  test("names as PyTorch gives them, in declaration order; nothing is allocated", () => {
    const net = new Net();
    const block = ["norm.weight", "up.weight", "up.bias", "down.weight"];
    const want = [
      ...block.map((n) => `blocks.0.${n}`),
      ...block.map((n) => `blocks.1.${n}`),
      "heads.a.weight",
      "heads.a.bias",
      "shift",
    ];
    expect(Array.from(net.namedParameters(), ([n]) => n)).toEqual(want);
    expect(Array.from(net.namedBuffers(), ([n]) => n)).toEqual(["seen"]);
    expect(net.numParameters()).toBe(2 * (8 + 128 + 16 + 128) + 18 + 8);
    expect(net.bytes("bfloat16")).toBe(2 * (net.numParameters() + 1));
    expect(w.liveTensors()).toBe(0);
    expect(() => w.scope(() => (net.blocks[0] as Block).forward(w.zeros([1, 8])))).toThrow(
      "weights of blocks.0.norm.weight not loaded: call load() or init()",
    );
    expect(net.train().blocks[1]?.up.training).toBe(true);
    expect(net.eval().training).toBe(false);
  });
  test("init is a function of the seed; to() converts; dispose frees", () => {
    using g = new w.Generator(1);
    using h = new w.Generator(1);
    const a = new Net().init(g);
    const b = new Net().init(h, { dtype: "bfloat16" });
    w.scope(() => {
      const [x, y] = [a.shift.to("bfloat16"), b.shift];
      expect(w.equal(x, y)).toBe(true);
      expect(a.to({ dtype: "bfloat16" }).blocks[0]?.up.weight.dtype).toBe("bfloat16");
    });
    a.dispose();
    b.dispose();
    expect(w.liveTensors()).toBe(0);
  });
  test("what is to be trained is remembered until the weights come", () => {
    using g = new w.Generator(1);
    using net = new Net();
    net.requiresGrad_();
    (net.blocks[0] as Block).requiresGrad_(false);
    net.init(g);
    expect(net.blocks[0]?.up.weight.requiresGrad).toBe(false);
    expect(net.blocks[1]?.up.weight.requiresGrad).toBe(true);
    expect(net.seen.requiresGrad).toBe(false);
  });
  test("load names every missing, unexpected and misshapen weight at once", () => {
    using g = new w.Generator(1);
    using net = new Net().init(g);
    const dict = net.stateDict();
    const source = (m: Map<string, w.Tensor>): w.WeightSource => ({
      keys: m.keys(),
      get: (k) => m.get(k) as w.Tensor,
      info: (k) => m.get(k) as w.Tensor,
    });
    w.scope(() => {
      const bad = new Map(dict);
      bad.delete("shift");
      bad.set("extra", w.zeros([1]));
      bad.set("seen", w.zeros([2]));
      using other = new Net();
      const failure = () => other.load(source(bad));
      expect(failure).toThrow("missing (1): shift");
      expect(failure).toThrow("unexpected (1): extra");
      expect(failure).toThrow("seen is [2] in the checkpoint, [1] here");
      expect(other.shift.materialised).toBe(false);
      bad.set("shift", net.shift).set("seen", net.seen);
      other.load(source(bad), { strict: false, dtype: (n) => (n.includes("norm") ? "float32" : "bfloat16") });
      expect([other.shift.dtype, other.blocks[0]?.norm.weight?.dtype as w.DType]).toEqual(["bfloat16", "float32"]);
      const copy = new Net().load(source(dict));
      w.noGrad(() => copy.shift.fill_(5));
      expect(w.equal(copy.shift, net.shift)).toBe(false);
      copy.dispose();
      const renamed = new Map(Array.from(dict, ([k, t]) => [`model.${k}`, t]));
      expect(w.equal(other.load(source(renamed), { rename: (n) => `model.${n}` }).shift, net.shift)).toBe(true);
    });
  });
  test("initial weights have the spread that PyTorch gives them", () => {
    using g = new w.Generator(1);
    using l = new w.Linear(64, 256).init(g);
    using c = new w.Conv3d(4, 64, 3).init(g);
    using n = new w.Linear(256, 256, { init: w.truncNormalInit(0.02), biasInit: w.zerosInit }).init(g);
    w.scope(() => {
      expect(l.weight.abs().max().item()).toBeLessThanOrEqual(1 / 8);
      expect(l.weight.std().item()).toBeCloseTo(1 / 8 / Math.sqrt(3), 2);
      expect(c.weight.abs().max().item()).toBeLessThanOrEqual(1 / Math.sqrt(108));
      expect(n.weight.abs().max().item()).toBeLessThanOrEqual(0.04);
      expect(n.weight.std().item()).toBeCloseTo(0.88 * 0.02, 3); // a normal cut at 2 sigma has 0.88 sigma
    });
  });
});

describe("rope", () => {
  test("pairs turn by position * theta^(-2i/d)", () => {
    w.scope(() => {
      const { cos, sin } = w.ropeTable([0, 3], 4, 100);
      const x = w.tensor([1, 0, 0, 1, 1, 0, 0, 1]).view([1, 1, 2, 4]);
      const y = w.applyRopeInterleaved(x, cos, sin).toNumbers();
      const want = [1, 0, 0, 1, Math.cos(3), Math.sin(3), -Math.sin(0.3), Math.cos(0.3)];
      y.forEach((v, i) => {
        expect(v).toBeCloseTo(want[i] as number, 6);
      });
    });
  });
  test("both layouts agree; equal axes must be said; wrong tables are errors", () => {
    using g = new w.Generator(1);
    w.scope(() => {
      const { cos, sin } = w.rope3d({ t: 2, h: 2, w: 3 }, 16);
      const x = w.randn([2, 3, 12, 16], { generator: g });
      const other = w.applyRopeInterleaved(x.transpose(1, 2), cos, sin).transpose(1, 2);
      expect(w.allClose(w.applyRopeInterleaved(x, cos, sin), other)).toBe(true);
      const square = w.randn([1, 12, 12, 16], { generator: g });
      expect(() => w.applyRopeInterleaved(square, cos, sin)).toThrow("say layout");
      expect(w.applyRopeInterleaved(square, cos, sin, "BSHD").shape).toEqual([1, 12, 12, 16]);
      expect(() => w.applyRopeInterleaved(x.narrow(2, 0, 5), cos, sin)).toThrow("12 positions");
      expect(() => w.applyRopeInterleaved(x.narrow(3, 0, 8), cos, sin)).toThrow("needs a table [S, 4]");
    });
  });
  test("axes share a head as Wan shares it", () => {
    expect(w.ropeAxes(128)).toEqual([44, 42, 42]);
    w.scope(() => {
      const { cos } = w.rope3d({ t: 2, h: 2, w: 2 }, 128, 10000);
      expect(cos.shape).toEqual([8, 64]);
      const last = cos.select(0, 7).toNumbers(); // t = h = w = 1
      expect(last[1]).toBeCloseTo(Math.cos(10000 ** (-2 / 44)), 6);
      expect(last[22 + 20]).toBeCloseTo(Math.cos(10000 ** (-40 / 42)), 6);
    });
  });
});

describe("fused kernels equal their compositions", () => {
  const S = 37;
  const H = 3;
  const sizes = [32, 40]; // 40: a tail that no vector width divides
  for (const dtype of ["float32", "bfloat16"] as const) {
    for (const d of sizes) {
      const D = H * d;
      // one rounding to bf16 (2^-8) of values up to about 16; fp32: sums in another order
      const atol = dtype === "float32" ? 2e-5 : 0.13;
      const rtol = dtype === "float32" ? 1e-5 : 1 / 128;
      test(`${dtype}, head of ${d}`, () => {
        using g = new w.Generator(7);
        const r = (shape: number[], t: w.DType = "float32") => w.randn(shape, { generator: g }).to(t);
        w.scope(() => {
          const [x, y] = [r([2, S, D], dtype), r([2, S, D], dtype)];
          const [gate, scale, shift] = [r([2, 1, D]), r([2, 1, D], dtype), r([2, S, D])];
          const rope = w.ropeTable(
            Array.from({ length: S }, (_, i) => i),
            d,
          );
          const video = r([1, D, 2, 3, 5]).to({ dtype, memoryFormat: "channels_last_3d" });
          const cases: Record<string, () => w.Tensor> = {
            modulated: () => w.modulatedLayerNorm(x, { scale, shift }),
            plainNorm: () => w.modulatedLayerNorm(x, { scale: null, shift: null }),
            gated: () => w.gatedAdd(x, y, gate),
            added: () => w.gatedAdd(x, y, null),
            gatedNorm: () => w.gatedAddNorm(x, y, gate, { scale, shift })[1],
            gatedSum: () => w.gatedAddNorm(x, y, gate, { scale, shift })[0],
            perHead: () => w.normRope(x, { heads: H, weight: r([d]).mul(0).add(1.5), rope }),
            perToken: () => w.normRope(x, { heads: H, weight: scale.select(0, 0).flatten(), over: "token", rope }),
            ropeOnly: () => w.normRope(x, { heads: H, weight: null, rope }),
            normOnly: () => w.normRope(x, { heads: H, weight: w.ones([d]) }),
            rope: () => w.applyRopeInterleaved(x.unflatten(-1, [H, d]), rope.cos, rope.sin, "BSHD"),
            ropeHeadsFirst: () => w.applyRopeInterleaved(x.unflatten(-1, [H, d]).transpose(1, 2), rope.cos, rope.sin),
            rms: () => w.rmsNorm(x, scale.select(0, 1).flatten()),
            channels: () => w.channelNorm(video, gate.select(0, 0).flatten()),
            channelsSilu: () => w.channelNorm(video, gate.select(0, 0).flatten(), { silu: true }),
          };
          const used: string[] = [];
          for (const [name, f] of Object.entries(cases)) {
            const fused = w.withInterceptor({ before: (op) => void used.push(op.name) }, f);
            expect(used.some((n) => n.startsWith("waver::"))).toBe(true);
            used.length = 0;
            const composed = w.withoutFusion(f);
            expect(fused.dtype).toBe(dtype);
            expect(fused.shape).toEqual(composed.shape);
            if (!w.allClose(fused.float(), composed.float(), { atol, rtol })) {
              throw new Error(`${name}: off by ${fused.float().sub(composed.float()).abs().max().item()}`);
            }
          }
        });
      });
    }
  }
});

describe("withMatmulDtype", () => {
  test("products run in bf16 from float32 weights, gradients arrive in float32", () => {
    using g = new w.Generator(1);
    using l = new w.Linear(32, 16).init(g);
    l.requiresGrad_();
    w.scope(() => {
      const x = w.randn([4, 32], { generator: g });
      const exact = l.forward(x);
      const y = w.withMatmulDtype("bfloat16", () => l.forward(x));
      expect(y.dtype).toBe("float32");
      expect(w.equal(y, exact)).toBe(false);
      expect(w.allClose(y, exact, { atol: 0.02, rtol: 0.02 })).toBe(true);
      y.square().sum().backward();
      expect(l.weight.grad?.dtype).toBe("float32");
      const kept = w.withMatmulDtype({ dtype: "bfloat16", result: "compute" }, () => l.forward(x));
      expect(kept.dtype).toBe("bfloat16");
      expect(w.matmulPolicy()).toBeNull();
      const ids = w.tensor([1], { dtype: "int64" });
      expect(w.withMatmulDtype("bfloat16", () => ids.add(1).dtype)).toBe("int64");
    });
    expect(() => w.withMatmulDtype("bfloat16", async () => 1)).toThrow("async");
  });
});

test("a convolution of clips is the same with a graph and without", () => {
  using g = new w.Generator(3);
  w.scope(() => {
    for (const { x, k, options } of [
      { x: [1, 3, 4, 7, 5], k: [4, 3, 3, 3, 3], options: { padding: [0, 1, 1] } },
      { x: [1, 4, 5, 8, 6], k: [6, 2, 1, 2, 2], options: { stride: [1, 2, 2], groups: 2 } },
      { x: [2, 3, 5, 6, 6], k: [2, 3, 2, 2, 2], options: { dilation: 2, padding: 1 } },
      { x: [1, 8, 3, 4, 4], k: [8, 8, 1, 1, 1], options: {} },
    ]) {
      const clip = w.randn(x, { generator: g });
      const [weight, bias] = [w.randn(k, { generator: g }), w.randn([k[0] as number], { generator: g })];
      for (const shift of [bias, null]) {
        const quick = w.noGrad(() => w.conv3d(clip, weight, shift, options));
        const recorded = w.conv3d(clip, weight.clone().requiresGrad_(), shift, options);
        expect(quick.shape).toEqual(recorded.shape);
        expect(w.allClose(quick, recorded.detach(), { atol: 1e-5, rtol: 1e-5 })).toBe(true);
      }
    }
  });
});
