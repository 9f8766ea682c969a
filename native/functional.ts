// The operators of networks: projections, norms, convolutions, attention, pooling, resampling, losses.
import { one } from "./call.ts";
import { EngineError } from "./errors.ts";
import type { Generator } from "./generator.ts";
import { fusibleWithGrad } from "./nn/fusion.ts";
import { bernoulli_, emptyLike, zerosLike } from "./ops.ts";
import { inMatmulDtype, matmulPolicy, needsGraph } from "./precision.ts";
import { schema, table } from "./schema.ts";
import { scope } from "./scope.ts";
import { meantBy } from "./standin.ts";
import type { Dims, Tensor } from "./tensor.ts";

// biome-ignore format: a table
const A = table(
  "linear", "layer_norm", "group_norm", "conv1d", "conv2d", "conv3d", "conv_transpose2d.input", "conv_transpose3d.input", "embedding", "pad",
  "scaled_dot_product_attention", "mse_loss", "l1_loss", "smooth_l1_loss", "cross_entropy_loss", "binary_cross_entropy_with_logits",
  "avg_pool2d", "avg_pool3d", "max_pool2d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "im2col", "pixel_shuffle", "pixel_unshuffle",
  "grid_sampler", "one_hot", "cosine_similarity",
);
const NORM_ROPE = schema("waver::norm_rope");
const ONEDNN = schema("aten::mkldnn_convolution");
// biome-ignore format: a table
const UPSAMPLE = table(
  "upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec", "_upsample_nearest_exact1d.vec",
  "_upsample_nearest_exact2d.vec", "_upsample_nearest_exact3d.vec", "upsample_linear1d.vec", "upsample_bilinear2d.vec",
  "_upsample_bilinear2d_aa.vec", "upsample_bicubic2d.vec", "_upsample_bicubic2d_aa.vec", "upsample_trilinear3d.vec",
);

/** x [..., in], weight [out, in] -> [..., out] */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null): Tensor {
  return inMatmulDtype(x, [weight, bias], (x, [w, b]) => one(A.linear, x, w, b));
}
export function layerNorm(
  x: Tensor,
  normalizedShape: readonly number[],
  weight?: Tensor | null,
  bias?: Tensor | null,
  eps = 1e-5,
): Tensor {
  return one(A.layer_norm, x, normalizedShape, weight, bias, eps);
}
/** x / sqrt(mean(x^2) + eps) over the last axis with float32 inside; the result has the dtype of x. */
export function rmsNorm(x: Tensor, weight: Tensor | null, eps = 1e-6): Tensor {
  return scope(() => {
    if (x.isContiguous && fusibleWithGrad(x)) {
      return one(NORM_ROPE, x.view([1, -1, 1, x.size(-1)]), weight, null, null, 1, eps).view(x.shape);
    }
    const f = x.to("float32");
    const y = f.mul(f.square().mean(-1, true).add(eps).rsqrt());
    return (weight ? y.mul(weight) : y).to(x.dtype);
  });
}
export function groupNorm(x: Tensor, groups: number, weight?: Tensor | null, bias?: Tensor | null, eps = 1e-5): Tensor {
  return one(A.group_norm, x, groups, weight, bias, eps);
}

export interface ConvOptions {
  stride?: Dims;
  padding?: Dims;
  dilation?: Dims;
  groups?: number;
}
function conv(
  op: "conv1d" | "conv2d" | "conv3d",
  x: Tensor,
  w: Tensor,
  b: Tensor | null | undefined,
  o: ConvOptions,
): Tensor {
  return inMatmulDtype(x, [w, b], (x, [w, b]) => one(A[op], x, w, b, o.stride, o.padding, o.dilation, o.groups));
}

/**
 * Whether to ask oneDNN by name. libtorch takes its own slow convolution for float32 clips that it thinks small, and measures them
 * without their width: 32 channels, 6 frames of 96 x 96, 3 x 3 x 3: 72 ms there, 14 ms here (one core, AVX-512). It has no gradient.
 */
function slowInLibtorch(x: Tensor, ...weights: (Tensor | null | undefined)[]): boolean {
  if (x.dtype !== "float32" || meantBy(x.device) !== "cpu" || process.arch !== "x64" || matmulPolicy() !== null)
    return false;
  return !needsGraph(x, ...weights);
}
const each = (dims: Dims): readonly number[] => (typeof dims === "number" ? [dims, dims, dims] : dims);

/** x [B, C, L] */
export function conv1d(x: Tensor, weight: Tensor, bias?: Tensor | null, options: ConvOptions = {}): Tensor {
  return conv("conv1d", x, weight, bias, options);
}
/** x [B, C, H, W] */
export function conv2d(x: Tensor, weight: Tensor, bias?: Tensor | null, options: ConvOptions = {}): Tensor {
  return conv("conv2d", x, weight, bias, options);
}
/** x [B, C, T, H, W] */
export function conv3d(x: Tensor, weight: Tensor, bias?: Tensor | null, options: ConvOptions = {}): Tensor {
  if (!slowInLibtorch(x, weight, bias)) return conv("conv3d", x, weight, bias, options);
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
  return one(ONEDNN, x, weight, bias, each(padding), each(stride), each(dilation), groups);
}
export function convTranspose2d(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor | null,
  { stride, padding, outputPadding, groups, dilation }: ConvOptions & { outputPadding?: Dims } = {},
): Tensor {
  return one(A["conv_transpose2d.input"], x, weight, bias, stride, padding, outputPadding, groups, dilation);
}
/** ids int64 [...], weight [n, d] -> [..., d] */
export function embedding(ids: Tensor, weight: Tensor): Tensor {
  return one(A.embedding, weight, ids);
}
/** Zeroes elements with probability p and scales the rest; the identity when p is 0. */
export function dropout(x: Tensor, p: number, generator: Generator): Tensor {
  if (p === 0) return x;
  return scope(() => x.mul(bernoulli_(emptyLike(x), 1 - p, generator).div_(1 - p)));
}
/** Pads in PyTorch's order: last axis first, (left, right) pairs. */
export function pad(
  x: Tensor,
  pads: readonly number[],
  mode: "constant" | "reflect" | "replicate" | "circular" = "constant",
  value?: number,
): Tensor {
  return one(A.pad, x, pads, mode, value);
}

export interface AttentionOptions {
  mask?: Tensor | null;
  scale?: number;
  causal?: boolean;
  gqa?: boolean;
}
/** q, k, v [B, H, S, d]; mask: bool (true takes part) or additive, broadcast to [B, H, Sq, Sk]. */
export function scaledDotProductAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, scale, causal = false, gqa = false }: AttentionOptions = {},
): Tensor {
  return inMatmulDtype(q, [k, v, mask], (q, [k, v, mask]) => {
    if (!causal && !gqa && smallForTraining(q, k, v))
      return composedAttention(q, k as Tensor, v as Tensor, mask, scale);
    return one(A.scaled_dot_product_attention, q, k, v, mask, 0, causal, scale, gqa);
  });
}

/**
 * libtorch's CPU attention has a slow bf16 backward: at [16, 3, 332, 64] forward and backward take 80 ms of one core,
 * three batched products 41 ms (AVX512-BF16). They keep the scores, so this is for short sequences.
 */
function smallForTraining(q: Tensor, k: Tensor | null | undefined, v: Tensor | null | undefined): boolean {
  return (
    q.dtype === "bfloat16" && q.device === "cpu" && q.size(-2) * (k?.size(-2) ?? 0) <= 1024 ** 2 && needsGraph(q, k, v)
  );
}

function composedAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  mask: Tensor | null | undefined,
  scale = q.size(-1) ** -0.5,
): Tensor {
  return scope(() => {
    const scores = q.mul(scale).matmul(k.transpose(-2, -1));
    // finite, so that a row without keys gives no NaN
    const masked = !mask
      ? scores
      : mask.dtype === "bool"
        ? scores.add(zerosLike(mask, { dtype: q.dtype }).maskedFill_(mask.logicalNot(), -1e30))
        : scores.add(mask);
    return masked.softmax(-1).matmul(v);
  });
}

export type Reduction = "none" | "mean" | "sum";
const REDUCTION = { none: 0, mean: 1, sum: 2 } as const; // at::Reduction
export function mseLoss(x: Tensor, target: Tensor, reduction: Reduction = "mean"): Tensor {
  return one(A.mse_loss, x, target, REDUCTION[reduction]);
}
export function l1Loss(x: Tensor, target: Tensor, reduction: Reduction = "mean"): Tensor {
  return one(A.l1_loss, x, target, REDUCTION[reduction]);
}
export function smoothL1(x: Tensor, target: Tensor, { beta = 1, reduction = "mean" as Reduction } = {}): Tensor {
  return one(A.smooth_l1_loss, x, target, REDUCTION[reduction], beta);
}
/** logits [N, C], target int64 [N] (or probabilities [N, C]) */
export function crossEntropy(
  logits: Tensor,
  target: Tensor,
  { weight = null as Tensor | null, reduction = "mean" as Reduction, ignoreIndex = -100, labelSmoothing = 0 } = {},
): Tensor {
  return one(A.cross_entropy_loss, logits, target, weight, REDUCTION[reduction], ignoreIndex, labelSmoothing);
}
export function binaryCrossEntropyWithLogits(x: Tensor, target: Tensor, reduction: Reduction = "mean"): Tensor {
  return one(A.binary_cross_entropy_with_logits, x, target, null, null, REDUCTION[reduction]);
}
export function cosineSimilarity(a: Tensor, b: Tensor, dim = 1, eps = 1e-8): Tensor {
  return one(A.cosine_similarity, a, b, dim, eps);
}

export interface PoolOptions {
  stride?: Dims;
  padding?: Dims;
}
export function avgPool2d(x: Tensor, kernel: Dims, { stride, padding }: PoolOptions = {}): Tensor {
  return one(A.avg_pool2d, x, kernel, stride, padding);
}
export function avgPool3d(x: Tensor, kernel: Dims, { stride, padding }: PoolOptions = {}): Tensor {
  return one(A.avg_pool3d, x, kernel, stride, padding);
}
export function maxPool2d(x: Tensor, kernel: Dims, { stride, padding }: PoolOptions = {}): Tensor {
  return one(A.max_pool2d, x, kernel, stride, padding);
}
export function adaptiveAvgPool2d(x: Tensor, size: Dims): Tensor {
  return one(A.adaptive_avg_pool2d, x, size);
}
export function adaptiveAvgPool3d(x: Tensor, size: Dims): Tensor {
  return one(A.adaptive_avg_pool3d, x, size);
}
/** Sliding blocks: x [B, C, H, W] -> [B, C * kh * kw, L] */
export function unfold(x: Tensor, kernel: Dims, { stride = 1, padding = 0, dilation = 1 }: ConvOptions = {}): Tensor {
  return one(A.im2col, x, kernel, dilation, padding, stride);
}
export function pixelShuffle(x: Tensor, factor: number): Tensor {
  return one(A.pixel_shuffle, x, factor);
}
export function pixelUnshuffle(x: Tensor, factor: number): Tensor {
  return one(A.pixel_unshuffle, x, factor);
}
export function oneHot(ids: Tensor, classes: number): Tensor {
  return one(A.one_hot, ids, classes);
}
/** grid [B, H, W, 2] of (x, y) in [-1, 1] */
export function gridSample(
  x: Tensor,
  grid: Tensor,
  { mode = "bilinear", paddingMode = "zeros", alignCorners = false }: GridOptions = {},
): Tensor {
  const modes = ["bilinear", "nearest", "bicubic"]; // order of at::native::GridSamplerInterpolation
  const paddings = ["zeros", "border", "reflection"];
  return one(A.grid_sampler, x, grid, modes.indexOf(mode), paddings.indexOf(paddingMode), alignCorners);
}
export interface GridOptions {
  mode?: "bilinear" | "nearest" | "bicubic";
  paddingMode?: "zeros" | "border" | "reflection";
  alignCorners?: boolean;
}

export interface InterpolateOptions {
  /** Target size of the spatial axes. */
  size?: Dims;
  /** Or a factor: one, or one per spatial axis. */
  scale?: Dims;
  mode?: "nearest" | "nearest-exact" | "linear" | "bilinear" | "bicubic" | "trilinear" | "area";
  antialias?: boolean;
  alignCorners?: boolean;
}
/** Resamples the spatial axes of x [B, C, ...], as torch.nn.functional.interpolate does. */
export function interpolate(x: Tensor, options: InterpolateOptions): Tensor {
  const { size, scale, mode = "nearest", antialias = false, alignCorners = false } = options;
  const n = x.ndim - 2;
  const each = (v: Dims | undefined) => (v === undefined ? null : typeof v === "number" ? Array<number>(n).fill(v) : v);
  const sizes = each(size);
  const scales = each(scale);
  if ((sizes === null) === (scales === null)) {
    throw new EngineError("op_arguments", "interpolate: give either size or scale");
  }
  if ((sizes ?? scales)?.length !== n) {
    throw new EngineError(
      "tensor_shape",
      `interpolate: [${sizes ?? scales}] for the ${n} spatial axes of [${x.shape}]`,
    );
  }
  if (mode === "area") {
    const target = sizes ?? (scales as readonly number[]).map((s, i) => Math.floor(x.size(i + 2) * s));
    if (n === 2) return one(A.adaptive_avg_pool2d, x, target);
    if (n === 3) return one(A.adaptive_avg_pool3d, x, target);
  }
  const aa = antialias ? "_aa" : "";
  const names: Record<string, string> = {
    nearest: `upsample_nearest${n}d`,
    "nearest-exact": `_upsample_nearest_exact${n}d`,
    linear: "upsample_linear1d",
    bilinear: antialias ? "_upsample_bilinear2d_aa" : "upsample_bilinear2d",
    bicubic: `${antialias ? "_" : ""}upsample_bicubic2d${aa}`,
    trilinear: "upsample_trilinear3d",
  };
  const op = (UPSAMPLE as Partial<typeof UPSAMPLE>)[`${names[mode]}.vec` as keyof typeof UPSAMPLE];
  const axes: Record<string, number> = { linear: 1, bilinear: 2, bicubic: 2, trilinear: 3 };
  if (!op || (axes[mode] ?? n) !== n)
    throw new EngineError("op_arguments", `interpolate: mode ${mode} for ${n} spatial axes`);
  if (antialias && axes[mode] !== 2)
    throw new EngineError("op_arguments", "interpolate: antialias needs bilinear or bicubic");
  if (mode.startsWith("nearest")) return one(op, x, sizes, scales);
  return one(op, x, sizes, alignCorners, scales);
}
