/**
 * What fixes a Waver network: its `config.json`, and what follows from it without a single weight.
 * Waver 2.1, Table 1: M dual-stream blocks, N single-stream blocks, heads x head dim = D.
 */
import { z } from "zod";
import { gridWindows, layerKinds, pairsOf } from "./windows.ts";

const triple = z.tuple([z.int().positive(), z.int().positive(), z.int().positive()]);

/** Window attention of the refiner (Waver 2.2), figures in the paper's order W_h, W_w, W_t. */
export const WindowParams = z.strictObject({
  /** `count`: the axis is cut into that many windows. `size`: windows of that many tokens. */
  kind: z.enum(["count", "size"]),
  spatial: triple.default([2, 2, 1]),
  temporal: triple.default([1, 1, 2]),
});
export type WindowParams = z.output<typeof WindowParams>;

export const WaverParams = z
  .object({
    /** M and N of Table 1. */
    num_dual: z.int().nonnegative(),
    num_single: z.int().nonnegative(),
    num_heads: z.int().positive(),
    head_dim: z.int().positive().multipleOf(2),
    /** V, I and Mask: 2 x out_channels + 4. */
    in_channels: z.int().positive(),
    out_channels: z.int().positive(),
    /** Latent frames, rows, columns of one token. */
    patch_size: triple.default([1, 2, 2]),
    /** Width of each text encoder's features; null where that encoder is absent. */
    t5_dim: z.int().positive().nullable(),
    qwen_dim: z.int().positive().nullable(),
    max_t5: z.int().positive().default(256),
    max_qwen: z.int().positive().default(512),
    /** Rows of the learned position tables, in patches: T, H, W. */
    pos_sizes: triple.default([128, 128, 128]),
    rope_theta: z.number().positive().default(10_000),
    window: WindowParams.nullable().default(null),
  })
  .refine((p) => p.in_channels === 2 * p.out_channels + MASK_CHANNELS, "in_channels is 2 x out_channels + 4")
  .refine((p) => p.t5_dim !== null || p.qwen_dim !== null, "at least one text encoder is needed")
  .refine((p) => p.num_dual + p.num_single > 0, "at least one block is needed");
export type WaverParams = z.output<typeof WaverParams>;

/** One mask value a pixel frame, folded to the VAE's temporal stride of 4. */
export const MASK_CHANNELS = 4;
/** Features of the sinusoid of 1000 t. */
export const TIME_FEATURES = 256;
export const MLP_RATIO = 4;

/** 12B: Waver Table 1, flan-t5-xxl (4096) and Qwen2.5-32B-Instruct (5120). */
export const WAVER_12B: WaverParams = WaverParams.parse({
  num_dual: 16,
  num_single: 40,
  num_heads: 24,
  head_dim: 128,
  in_channels: 36,
  out_channels: 16,
  t5_dim: 4096,
  qwen_dim: 5120,
});

export interface Grid {
  readonly t: number;
  readonly h: number;
  readonly w: number;
}

/** Parameters by part, counted from the declaration (golden `waver_12b_count`). */
export function countParameters(
  p: WaverParams,
): Record<"positions" | "patch_embed" | "text" | "time" | "dual" | "single" | "out" | "total", number> {
  const D = p.num_heads * p.head_dim;
  const patch = volume(p.patch_size);
  const linear = (from: number, to: number): number => from * to + to;
  const mlp = linear(D, MLP_RATIO * D) + linear(MLP_RATIO * D, D);
  const norms = 2 * p.head_dim;
  const text = (dim: number | null): number => (dim === null ? 0 : dim + linear(dim, D) + linear(D, D));
  const parts = {
    positions: (p.pos_sizes[0] + p.pos_sizes[1] + p.pos_sizes[2]) * D,
    patch_embed: linear(p.in_channels * patch, D),
    text: text(p.t5_dim) + text(p.qwen_dim),
    time: linear(TIME_FEATURES, D) + linear(D, D),
    dual: p.num_dual * 2 * (linear(D, 6 * D) + linear(D, 3 * D) + norms + linear(D, D) + mlp),
    single: p.num_single * (linear(D, 3 * D) + linear(D, (3 + MLP_RATIO) * D) + norms + linear((1 + MLP_RATIO) * D, D)),
    out: linear(D, 2 * D) + linear(D, p.out_channels * patch),
  };
  return { ...parts, total: Object.values(parts).reduce((sum, n) => sum + n, 0) };
}

export interface ForwardCost {
  readonly grid: Grid;
  readonly videoTokens: number;
  readonly textTokens: number;
  readonly linear: number;
  readonly linearByGroup: Readonly<Record<"patch_embed" | "text" | "time" | "dual" | "single" | "out", number>>;
  readonly attention: number;
  /** (query, key) pairs of one layer of each kind. */
  readonly pairsByKind: Readonly<Record<string, number>>;
  readonly total: number;
}

/**
 * FLOPs of one forward of one sample: 2mnk a linear layer (modulation and time on one row), 4D a (query, key) pair.
 * Text counts at both encoders' limits. Norms, GELU, RoPE and softmax are left out.
 */
export function countFlops(
  p: WaverParams,
  size: { frames: number; height: number; width: number },
  vae = { stride: [4, 8, 8] as const },
): ForwardCost {
  const D = p.num_heads * p.head_dim;
  const [pt, ph, pw] = p.patch_size;
  const [st, sh, sw] = vae.stride;
  const grid = {
    t: Math.ceil((1 + (size.frames - 1) / st) / pt),
    h: Math.ceil(size.height / (sh * ph)),
    w: Math.ceil(size.width / (sw * pw)),
  };
  const S = grid.t * grid.h * grid.w;
  const limits = [
    [p.t5_dim, p.max_t5],
    [p.qwen_dim, p.max_qwen],
  ] as const;
  const L = limits.reduce((sum, [dim, max]) => sum + (dim === null ? 0 : max), 0);
  const tokens = 2 * (S + L) * (4 + 2 * MLP_RATIO) * D * D;
  const patch = volume(p.patch_size);
  const linearByGroup = {
    patch_embed: 2 * S * p.in_channels * patch * D,
    text: limits.reduce((sum, [dim, max]) => sum + (dim === null ? 0 : 2 * max * (dim * D + D * D)), 0),
    time: 2 * (TIME_FEATURES * D + D * D),
    dual: p.num_dual * (2 * 2 * 6 * D * D + tokens),
    single: p.num_single * (2 * 3 * D * D + tokens),
    out: 2 * 2 * D * D + 2 * S * D * p.out_channels * patch,
  };
  const pairsByKind: Record<string, number> = {};
  let pairs = 0;
  for (const kind of layerKinds(p)) {
    pairsByKind[kind] ??=
      kind === "full" || p.window === null
        ? (S + L) ** 2
        : pairsOf(gridWindows(grid, p.window, kind)) + 2 * S * L + L * L;
    pairs += pairsByKind[kind];
  }
  const linear = Object.values(linearByGroup).reduce((sum, n) => sum + n, 0);
  const attention = 4 * D * pairs;
  return {
    grid,
    videoTokens: S,
    textTokens: L,
    linear,
    linearByGroup,
    attention,
    pairsByKind,
    total: linear + attention,
  };
}

const volume = ([t, h, w]: readonly [number, number, number]): number => t * h * w;
