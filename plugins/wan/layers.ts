/**
 * The layers of the Wan DiT (Wan 4.2). Axes: B batch, S video tokens, L text tokens, I image tokens, D width, H heads.
 *
 * In a model of lower precision these stay float32: norms with their modulation, the two gated residuals, the time embedding.
 */
import {
  applyRopeInterleaved,
  LayerNorm,
  Linear,
  layerNorm,
  Module,
  mergeHeads,
  normalInit,
  type Parameter,
  RMSNorm,
  type RopeTable,
  scaledDotProductAttention,
  splitHeads,
  type Tensor,
  tokenAttention,
} from "../../native/index.ts";
import type { WanConfig } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

/** Queries from the video, keys and values from the video (with positions), or from text and image (without). */
export class Attention extends Module {
  readonly to_q: Linear;
  readonly to_k: Linear;
  readonly to_v: Linear;
  readonly to_out: readonly [Linear];
  readonly norm_q: RMSNorm;
  readonly norm_k: RMSNorm;
  /** Image tokens have keys and values of their own. */
  readonly add_k_proj: Linear | undefined;
  readonly add_v_proj: Linear | undefined;
  readonly norm_added_k: RMSNorm | undefined;
  readonly #heads: number;

  constructor(config: WanConfig, imageDim?: number | null) {
    super();
    const D = config.num_attention_heads * config.attention_head_dim;
    this.#heads = config.num_attention_heads;
    this.to_q = new Linear(D, D);
    this.to_k = new Linear(D, D);
    this.to_v = new Linear(D, D);
    this.to_out = [new Linear(D, D)];
    // over all heads at once, before they are split
    this.norm_q = new RMSNorm(D, { eps: config.eps });
    this.norm_k = new RMSNorm(D, { eps: config.eps });
    if (imageDim == null) return;
    this.add_k_proj = new Linear(imageDim, D);
    this.add_v_proj = new Linear(imageDim, D);
    this.norm_added_k = new RMSNorm(D, { eps: config.eps });
  }

  /** x [B S D], attending to itself or to text [B L D] and image [B I D] -> [B S D] */
  forward(x: Tensor, to: { rope?: RopeTable; text?: Tensor; image?: Tensor | undefined; tap?: Tap }): Tensor {
    const context = to.text ?? x;
    const normQ = this.norm_q.forward(this.to_q.forward(x));
    const normK = this.norm_k.forward(this.to_k.forward(context));
    to.tap?.("norm_q", normQ);
    to.tap?.("norm_k", normK);
    const turn = (t: Tensor): Tensor =>
      to.rope === undefined ? t : applyRopeInterleaved(t, to.rope.cos, to.rope.sin, "BHSD");
    const [q, k, v] = [turn(this.#split(normQ)), turn(this.#split(normK)), this.#split(this.to_v.forward(context))];
    let seen =
      to.text === undefined
        ? tokenAttention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).flatten(2)
        : mergeHeads(scaledDotProductAttention(q, k, v));
    if (
      to.image !== undefined &&
      this.add_k_proj !== undefined &&
      this.add_v_proj !== undefined &&
      this.norm_added_k !== undefined
    ) {
      const imageK = this.#split(this.norm_added_k.forward(this.add_k_proj.forward(to.image)));
      seen = seen.add(mergeHeads(scaledDotProductAttention(q, imageK, this.#split(this.add_v_proj.forward(to.image)))));
    }
    return this.to_out[0].forward(seen);
  }

  #split(x: Tensor): Tensor {
    return splitHeads(x, this.#heads);
  }
}

/** linear, GELU, linear; `net.0.proj` and `net.2` in the checkpoints. */
export class FeedForward extends Module {
  readonly net: readonly [{ readonly proj: Linear }, undefined, Linear];
  readonly #gelu: "tanh" | "none";

  constructor(dim: number, inner: number, outDim: number, gelu: "tanh" | "none") {
    super();
    this.#gelu = gelu;
    this.net = [{ proj: new Linear(dim, inner) }, undefined, new Linear(inner, outDim)];
  }

  forward(x: Tensor): Tensor {
    return this.net[2].forward(this.net[0].proj.forward(x).gelu(this.#gelu));
  }
}

/** Layer norm without weights, in float32: [.. D] -> float32 [.. D] */
export const plainNorm = (x: Tensor, eps: number): Tensor => layerNorm(x.to("float32"), [x.size(-1)], null, null, eps);
/** y * (1 + scale) + shift */
export const modulate = (y: Tensor, shift: Tensor, scale: Tensor): Tensor => y.mul(scale.add(1)).add(shift);
/** x + gate * y in float32, back to the dtype of x. */
const gatedAdd = (x: Tensor, gate: Tensor, y: Tensor): Tensor =>
  x.to("float32").add(y.to("float32").mul(gate)).to(x.dtype);

/** What every block of one forward sees. */
export interface Shared {
  /** Six modulations from the time, [B 1 6 D], or [B S 6 D] when tokens have times of their own (Wan 2.2). */
  readonly time: Tensor;
  readonly text: Tensor;
  readonly image: Tensor | undefined;
  readonly rope: RopeTable;
}

/** Self-attention, cross-attention, feed-forward; time modulates the first and the last (Wan 4.2.1: one table a block, one projection for all). */
export class Block extends Module {
  readonly attn1: Attention;
  readonly attn2: Attention;
  readonly norm2: LayerNorm | undefined;
  readonly ffn: FeedForward;
  readonly scale_shift_table: Parameter;
  readonly #eps: number;

  constructor(config: WanConfig) {
    super();
    const D = config.num_attention_heads * config.attention_head_dim;
    this.#eps = config.eps;
    this.attn1 = new Attention(config);
    this.attn2 = new Attention(config, config.added_kv_proj_dim);
    this.norm2 = config.cross_attn_norm ? new LayerNorm(D, { eps: config.eps }) : undefined;
    this.ffn = new FeedForward(D, config.ffn_dim, D, "tanh");
    this.scale_shift_table = this.parameter([1, 6, D], normalInit(D ** -0.5));
  }

  /** x [B S D] -> [B S D] */
  forward(x0: Tensor, { time, text, image, rope }: Shared, tap: Tap): Tensor {
    const seen = (name: string, value: Tensor): Tensor => {
      tap(name, value);
      return value;
    };
    const within =
      (name: string): Tap =>
      (part, value) =>
        tap(`${name}.${part}`, value);
    const [shift1, scale1, gate1, shift3, scale3, gate3] = this.scale_shift_table.add(time.to("float32")).unbind(2) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    let x = x0;
    const self = modulate(seen("norm1", plainNorm(x, this.#eps)), shift1, scale1).to(x.dtype);
    x = gatedAdd(x, gate1, seen("attn1", this.attn1.forward(self, { rope, tap: within("attn1") })));
    const cross = seen("norm2", this.norm2 === undefined ? x : this.norm2.forward(x.to("float32")).to(x.dtype));
    x = x.add(seen("attn2", this.attn2.forward(cross, { text, image, tap: within("attn2") }))); // neither gated nor in float32
    const inner = modulate(seen("norm3", plainNorm(x, this.#eps)), shift3, scale3).to(x.dtype);
    return gatedAdd(x, gate3, seen("ffn", this.ffn.forward(inner)));
  }
}
