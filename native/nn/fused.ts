// The memory-bound parts of a transformer block. Each has a composition of aten operators, which runs on every device,
// and a CPU kernel in src/fused_cpu.cc that does it in one pass; gradients are in src/fused_grad.cc.
import { many, one } from "../call.ts";
import { layerNorm } from "../functional.ts";
import { schema } from "../schema.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { fusible, fusibleWithGrad } from "./fusion.ts";
import { composedRope, type RopeTable } from "./rope.ts";

const GATED_NORM = schema("waver::gated_norm");
const NORM_ROPE = schema("waver::norm_rope");
const GELU_TANH = schema("waver::gelu_tanh");
const L2_NORM_SILU = schema("waver::l2_norm_silu");

/** Modulation of one sub-layer; each [B, 1, D], [B, S, D] or [D]. */
export interface Modulation {
  scale: Tensor | null;
  shift: Tensor | null;
}

function rows(x: Tensor): boolean {
  return x.ndim === 3 && x.isContiguous;
}

/** LayerNorm(x) (1 + scale) + shift without weights of its own (adaLN, Peebles and Xie 2023); x [B, S, D], float32 inside. */
export function modulatedLayerNorm(x: Tensor, { scale, shift }: Modulation, eps = 1e-6): Tensor {
  return scope(() => {
    if (rows(x) && fusibleWithGrad(x, scale, shift)) {
      return many(GATED_NORM, x, null, null, scale, shift, true, eps)[1] as Tensor;
    }
    let n = layerNorm(x.to("float32"), [x.size(-1)], null, null, eps);
    if (scale) n = n.mul(scale.add(1));
    if (shift) n = n.add(shift);
    return n.to(x.dtype);
  });
}

/** x + gate * y in float32, in the dtype of x; x, y [B, S, D]. */
export function gatedAdd(x: Tensor, y: Tensor, gate: Tensor | null): Tensor {
  return scope(() => {
    if (rows(x) && rows(y) && x.dtype === y.dtype && fusibleWithGrad(x, gate)) {
      return many(GATED_NORM, x, y, gate, null, null, false, 0)[0] as Tensor;
    }
    const f = x.to("float32");
    return (gate ? f.add(y.mul(gate)) : f.add(y)).to(x.dtype);
  });
}

/** [h, n]: h = x + gate * y, n = LayerNorm(h) (1 + scale) + shift: the end of one sub-layer and the start of the next. */
export function gatedAddNorm(
  x: Tensor,
  y: Tensor,
  gate: Tensor | null,
  next: Modulation,
  eps = 1e-6,
): [Tensor, Tensor] {
  if (rows(x) && rows(y) && x.dtype === y.dtype && fusibleWithGrad(x, gate, next.scale, next.shift)) {
    return many(GATED_NORM, x, y, gate, next.scale, next.shift, true, eps) as [Tensor, Tensor];
  }
  const h = gatedAdd(x, y, gate);
  return [h, modulatedLayerNorm(h, next, eps)];
}

export interface NormRopeOptions {
  heads: number;
  /** RMSNorm weight: [d] per head, [H * d] over the token; null: no norm. */
  weight: Tensor | null;
  /** Per head (Waver) or over all heads (Wan). */
  over?: "head" | "token";
  rope?: RopeTable | null;
  eps?: number;
}

/** RMSNorm of queries or keys, then RoPE: x [B, S, H * d] -> [B, H, S, d] (a view of [B, S, H, d]). */
export function normRope(
  x: Tensor,
  { heads, weight, over = "head", rope = null, eps = 1e-6 }: NormRopeOptions,
): Tensor {
  return scope(() => {
    const split = x.unflatten(-1, [heads, -1]);
    if (x.strides.at(-1) === 1 && fusibleWithGrad(x)) {
      const group = weight === null ? 0 : over === "head" ? 1 : 2;
      return one(NORM_ROPE, split, weight, rope?.cos, rope?.sin, group, eps).transpose(1, 2);
    }
    // no more at once than a step needs: these are float32 rows of all tokens
    let h = split;
    if (weight) {
      const n = scope(() => {
        const f = (over === "head" ? split : x).to("float32");
        const root = scope(() => f.square().mean(-1, true).add(eps).rsqrt());
        const normed = f.mul(root);
        if (f !== split && f !== x) f.dispose();
        return normed.mul(weight);
      });
      h = over === "head" ? n : n.unflatten(-1, [heads, -1]);
    }
    if (rope) h = composedRope(h, rope.cos.unsqueeze(-2), rope.sin.unsqueeze(-2));
    return h.to(x.dtype).transpose(1, 2);
  });
}

/** GELU in its tanh form; x may be a slice of a wider tensor's last axis. */
export function geluTanh(x: Tensor): Tensor {
  return evenRows(x) && fusibleWithGrad(x) ? one(GELU_TANH, x) : x.gelu("tanh");
}

/** Whether the rows of x lie at one distance. */
function evenRows(x: Tensor): boolean {
  const { strides, shape } = x;
  return (
    strides.at(-1) === 1 &&
    strides
      .slice(0, -2)
      .every((stride, i) => shape[i] === 1 || stride === (strides[i + 1] as number) * (shape[i + 1] as number))
  );
}

/**
 * x / max(|x|, eps) * sqrt(C) * weight over the channels of [B, C, ...], then SiLU if asked. The kernel serves tensors
 * in channels_last(_3d) layout and keeps it.
 */
export function channelNorm(x: Tensor, weight: Tensor, { eps = 1e-12, silu = false } = {}): Tensor {
  return scope(() => {
    const c = x.size(1);
    const last = x.movedim(1, -1);
    if (last.isContiguous && fusible(x, weight)) {
      return one(L2_NORM_SILU, last.view([-1, c]), weight.flatten(), eps, silu)
        .view(last.shape)
        .movedim(-1, 1);
    }
    const f = x.to("float32");
    const w = weight.view([c, ...Array<number>(x.ndim - 2).fill(1)]);
    const n = f
      .div(f.norm(2, 1, true).clamp(eps))
      .mul(Math.sqrt(c))
      .mul(w);
    return (silu ? n.silu() : n).to(x.dtype);
  });
}
