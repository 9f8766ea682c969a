import { describe, expect, test } from "bun:test";
import {
  type DType,
  Generator,
  gatedAdd,
  gatedAddNorm,
  geluTanh,
  grad,
  modulatedLayerNorm,
  noGrad,
  normRope,
  ones,
  randn,
  rmsNorm,
  rope3d,
  scaledDotProductAttention,
  scope,
  type Tensor,
  withoutFusion,
} from "../index.ts";

/** Runs `fn` on fresh leaves, fused or not, and gives its result and all gradients as numbers. */
function run(
  fused: boolean,
  shapes: readonly (readonly number[])[],
  fn: (...leaves: Tensor[]) => Tensor | Tensor[],
): Float32Array[] {
  return scope(() => {
    using generator = new Generator(1);
    const leaves = shapes.map((shape) => randn(shape, { generator }).requiresGrad_());
    const go = (): Float32Array[] => {
      const out = [fn(...leaves)].flat();
      const loss = out
        .map((each) => each.float().mul(randn(each.shape, { generator })).sum())
        .reduce((a, b) => a.add(b));
      loss.backward();
      return [...out, ...leaves.map((leaf) => leaf.grad as Tensor)].map((each) => each.toFloat32Array());
    };
    return fused ? go() : withoutFusion(go);
  });
}

function agree(
  shapes: readonly (readonly number[])[],
  fn: (...leaves: Tensor[]) => Tensor | Tensor[],
  tolerance = 2e-5,
): void {
  const [a, b] = [run(true, shapes, fn), run(false, shapes, fn)];
  a.forEach((x, i) => {
    const y = b[i] as Float32Array;
    const scale = Math.max(...y.map(Math.abs));
    expect(Math.max(...x.map((value, j) => Math.abs(value - (y[j] as number)))) / scale).toBeLessThan(tolerance);
  });
}

const [B, S, H, d] = [2, 70, 3, 12];
const D = H * d;

describe("gradients of fused kernels are those of their compositions", () => {
  const mod = [B, 1, D];
  test("modulated norm", () => {
    agree([[B, S, D], mod, mod], (x, scale, shift) => modulatedLayerNorm(x, { scale, shift }));
    agree([[B, S, D], [D]], (x, scale) => modulatedLayerNorm(x, { scale, shift: null }));
    agree([[B, S, D]], (x) => modulatedLayerNorm(x, { scale: null, shift: null }));
  });
  test("gated addition, with and without the next norm", () => {
    agree([[B, S, D], [B, S, D], mod], (x, y, gate) => gatedAdd(x, y, gate));
    agree(
      [
        [B, S, D],
        [B, S, D],
      ],
      (x, y) => gatedAdd(x, y, null),
    );
    agree([[B, S, D], [B, S, D], mod, mod, mod], (x, y, gate, scale, shift) =>
      gatedAddNorm(x, y, gate, { scale, shift }),
    );
    // only the second result is used
    agree(
      [[B, S, D], [B, S, D], mod, mod, mod],
      (x, y, gate, scale, shift) => gatedAddNorm(x, y, gate, { scale, shift })[1],
    );
  });
  test("a modulation of every token takes the composition", () => {
    agree(
      [
        [B, S, D],
        [B, S, D],
        [B, S, D],
      ],
      (x, scale, shift) => modulatedLayerNorm(x, { scale, shift }),
    );
  });
  test("norm and rotation of heads", () => {
    const rope = noGrad(() => rope3d({ t: 2, h: 5, w: 7 }, d));
    agree([[B, S, 3 * D], [d]], (qkv, weight) => normRope(qkv.chunk(3, -1)[1] as Tensor, { heads: H, weight, rope }));
    agree([[B, S, D], [D]], (x, weight) => normRope(x, { heads: H, weight, over: "token", rope }));
    agree([[B, S, D]], (x) => normRope(x, { heads: H, weight: null, rope }));
    agree([[B, S, D], [d]], (x, weight) => normRope(x, { heads: H, weight }));
    agree([[B, S, D], [D]], (x, weight) => rmsNorm(x, weight));
    rope.cos.dispose();
    rope.sin.dispose();
  });
  test("GELU, also of a slice", () => {
    agree([[B, S, D]], (x) => geluTanh(x));
    agree([[B, S, 3 * D]], (x) => geluTanh(x.narrow(-1, D, D)));
    agree([[B, S, D]], (x) => geluTanh(x.transpose(1, 2)));
  });
  test("attention of short sequences in bfloat16", () => {
    const mask = noGrad(() => ones([B, 1, 1, S], { dtype: "bool" }));
    const attend = (dtype: DType) => (q: Tensor, k: Tensor, v: Tensor) =>
      scaledDotProductAttention(q.to(dtype), k.to(dtype), v.to(dtype), { mask });
    const shapes = [0, 1, 2].map(() => [B, H, S, d]);
    const [half, full] = [run(true, shapes, attend("bfloat16")), run(true, shapes, attend("float32"))];
    half.forEach((x, i) => {
      const y = full[i] as Float32Array;
      expect(
        Math.max(...x.map((value, j) => Math.abs(value - (y[j] as number)))) / Math.max(...y.map(Math.abs)),
      ).toBeLessThan(0.03);
    });
    mask.dispose();
  });
  test("in bfloat16 within its rounding", () => {
    agree(
      [[B, S, D], [B, S, D], mod, mod, mod],
      (x, y, gate, scale, shift) => gatedAddNorm(x.to("bfloat16"), y.to("bfloat16"), gate, { scale, shift }),
      0.03,
    );
    agree([[B, S, D], [d]], (x, weight) => normRope(x.to("bfloat16"), { heads: H, weight }), 0.03);
  });
  test("there is no second derivative, and it says so", () => {
    scope(() => {
      using generator = new Generator(1);
      const x = randn([B, S, D], { generator }).requiresGrad_();
      expect(() =>
        grad(modulatedLayerNorm(x, { scale: null, shift: null }).square().sum(), [x], { createGraph: true }),
      ).toThrow("no second derivative");
    });
  });
});
