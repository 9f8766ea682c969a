// Rotary position embedding (Su et al. 2021): tables with float64 angles; adjacent pairs or halves of a head rotated.
import { one } from "../call.ts";
import { EngineError } from "../errors.ts";
import { cat, stack, tensor } from "../ops.ts";
import { schema } from "../schema.ts";
import { scope } from "../scope.ts";
import type { Device, Tensor } from "../tensor.ts";
import { fusibleWithGrad } from "./fusion.ts";

const NORM_ROPE = schema("waver::norm_rope");

/** cos and sin, float32 [S, d / 2] each. */
export interface RopeTable {
  cos: Tensor;
  sin: Tensor;
}

function frequencies(dim: number, theta: number): Float64Array {
  if (dim % 2 !== 0) throw new EngineError("op_arguments", `rope: an even dimension is needed, got ${dim}`);
  return Float64Array.from({ length: dim / 2 }, (_, i) => theta ** -((2 * i) / dim));
}

function fromAngles(angles: Float64Array, columns: number, device: Device | undefined): RopeTable {
  return scope(() => {
    const table = (f: (x: number) => number) => {
      const flat = tensor(Float32Array.from(angles, f), { device });
      return flat.view([angles.length / columns, columns]);
    };
    return { cos: table(Math.cos), sin: table(Math.sin) };
  });
}

/** Angles position * theta^(-2i / dim), for one axis. */
export function ropeTable(positions: ArrayLike<number>, dim: number, theta = 10000, device?: Device): RopeTable {
  const freq = frequencies(dim, theta);
  const angles = new Float64Array(positions.length * freq.length);
  for (let p = 0; p < positions.length; p++) {
    for (let i = 0; i < freq.length; i++) angles[p * freq.length + i] = (positions[p] as number) * (freq[i] as number);
  }
  return fromAngles(angles, freq.length, device);
}

/** Tables for patches at (row, column), [N, headDim / 2]: half of a head's frequencies turn with each. */
export function ropeOfPatches(
  { rows, columns }: { readonly rows: ArrayLike<number>; readonly columns: ArrayLike<number> },
  headDim: number,
  theta = 10000,
  device?: Device,
): RopeTable {
  return scope(() => {
    const y = ropeTable(rows, headDim / 2, theta, device);
    const x = ropeTable(columns, headDim / 2, theta, device);
    return { cos: cat([y.cos, x.cos], -1), sin: cat([y.sin, x.sin], -1) };
  });
}

/** How a head's channels are shared between time, height and width: Wan's split (d - 4 floor(d/6), 2 floor(d/6), same). */
export function ropeAxes(headDim: number): [number, number, number] {
  const side = 2 * Math.floor(headDim / 6);
  return [headDim - 2 * side, side, side];
}

export interface RopeGrid {
  t: number;
  h: number;
  w: number;
}

/** Tables for a t x h x w grid of tokens in row-major order, [t * h * w, headDim / 2]. */
export function rope3d({ t, h, w }: RopeGrid, headDim: number, theta = 10000, device?: Device): RopeTable {
  const [ft, fh, fw] = ropeAxes(headDim).map((d) => frequencies(d, theta)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const columns = headDim / 2;
  const angles = new Float64Array(t * h * w * columns);
  let at = 0;
  for (let i = 0; i < t; i++) {
    for (let j = 0; j < h; j++) {
      for (let k = 0; k < w; k++) {
        for (const f of ft) angles[at++] = i * f;
        for (const f of fh) angles[at++] = j * f;
        for (const f of fw) angles[at++] = k * f;
      }
    }
  }
  return fromAngles(angles, columns, device);
}

export type HeadLayout = "BHSD" | "BSHD";

/** Which axis of x the table runs along; null when the caller has shaped the table to broadcast. */
function placed(x: Tensor, table: Tensor, layout: HeadLayout | undefined): HeadLayout | null {
  if (table.shape.at(-1) !== x.size(-1) / 2) {
    throw new EngineError(
      "tensor_shape",
      `rope: x [${x.shape}] needs a table [S, ${x.size(-1) / 2}], got [${table.shape}]`,
    );
  }
  if (table.ndim !== 2) return null;
  const s = table.size(0);
  const fits = { BHSD: x.size(-2) === s, BSHD: x.ndim > 2 && x.size(-3) === s };
  if (layout === undefined && fits.BHSD && fits.BSHD && s !== 1) {
    throw new EngineError("tensor_shape", `rope: x [${x.shape}] has ${s} on both axes; say layout "BHSD" or "BSHD"`);
  }
  const chosen = layout ?? (fits.BHSD ? "BHSD" : "BSHD");
  if (!fits[chosen]) {
    throw new EngineError("tensor_shape", `rope: x [${x.shape}] as ${chosen} and a table of ${s} positions`);
  }
  return chosen;
}

/** @internal Pairs rotated in float32; cos and sin broadcast against the pairs of x. The result is float32. */
export function composedRope(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  return scope(() => {
    const pairs = x.to("float32").unflatten(-1, [-1, 2]);
    const a = pairs.select(-1, 0);
    const b = pairs.select(-1, 1);
    const turned = [scope(() => a.mul(cos).sub(b.mul(sin))), scope(() => a.mul(sin).add(b.mul(cos)))];
    return stack(turned, -1).flatten(-2, -1);
  });
}

/**
 * Rotates adjacent pairs (x0, x1), (x2, x3), ... in float32; the result has the dtype of x.
 * x [B, H, S, d] or [B, S, H, d]; cos, sin [S, d / 2]. The layout is read from the shapes unless H = S.
 */
export function applyRopeInterleaved(x: Tensor, cos: Tensor, sin: Tensor, layout?: HeadLayout): Tensor {
  const at = placed(x, cos, layout);
  return scope(() => {
    if (x.ndim === 4 && at !== null && x.strides[3] === 1 && fusibleWithGrad(x)) {
      if (at === "BSHD") return one(NORM_ROPE, x, null, cos, sin, 0, 0);
      return one(NORM_ROPE, x.transpose(1, 2), null, cos, sin, 0, 0).transpose(1, 2);
    }
    const place = (t: Tensor) => (at === "BSHD" ? t.unsqueeze(1) : t);
    return composedRope(x, place(cos), place(sin)).to(x.dtype);
  });
}

/**
 * Rotates the pairs (x0, x[d/2]), (x1, x[d/2 + 1]), ... in float32, the layout of Llama and Qwen; the result has the
 * dtype of x. x [B, H, S, d]; cos, sin [S, d / 2], or [B, S, d / 2] where rows have positions of their own.
 */
export function applyRopeHalves(x: Tensor, { cos, sin }: RopeTable): Tensor {
  if (cos.size(-1) !== x.size(-1) / 2 || cos.size(-2) !== x.size(-2))
    throw new EngineError(
      "tensor_shape",
      `rope: x [${x.shape}] needs a table [S, ${x.size(-1) / 2}], got [${cos.shape}]`,
    );
  return scope(() => {
    const [c, s] = cos.ndim === 3 ? [cos.unsqueeze(1), sin.unsqueeze(1)] : [cos, sin];
    const [a, b] = x.to("float32").chunk(2, -1) as [Tensor, Tensor];
    return cat([a.mul(c).sub(b.mul(s)), b.mul(c).add(a.mul(s))], -1).to(x.dtype);
  });
}
