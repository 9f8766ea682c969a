/**
 * The layers of the Wan DiT (Wan 4.2). Axes: B batch, S video tokens, L text tokens, I image tokens, D width, H heads.
 *
 * In a model of lower precision these stay float32: norms with their modulation, the two gated residuals, the time embedding.
 */
import {
  gatedAdd,
  gatedAddNorm,
  LayerNorm,
  Linear,
  layerNorm,
  linearGelu,
  linears,
  type Modulation,
  Module,
  mergeHeads,
  modulatedLayerNorm,
  normalInit,
  normRope,
  type Parameter,
  RMSNorm,
  type RopeTable,
  remembered,
  scaledDotProductAttention,
  scope,
  splitHeads,
  type Tensor,
  tokenAttention,
} from "../../native/index.ts";
import type { WanConfig } from "./params.ts";

/** Shows a value to whoever asked; it is computed only then. */
export type Tap = (name: string, value: () => Tensor) => void;

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
  readonly #qkv: readonly [Linear, Linear, Linear];

  constructor(config: WanConfig, imageDim?: number | null) {
    super();
    const D = config.num_attention_heads * config.attention_head_dim;
    this.#heads = config.num_attention_heads;
    this.to_q = new Linear(D, D);
    this.to_k = new Linear(D, D);
    this.to_v = new Linear(D, D);
    this.#qkv = [this.to_q, this.to_k, this.to_v];
    this.to_out = [new Linear(D, D)];
    // over all heads at once, before they are split
    this.norm_q = new RMSNorm(D, { eps: config.eps });
    this.norm_k = new RMSNorm(D, { eps: config.eps });
    if (imageDim == null) return;
    this.add_k_proj = new Linear(imageDim, D);
    this.add_v_proj = new Linear(imageDim, D);
    this.norm_added_k = new RMSNorm(D, { eps: config.eps });
  }

  /** x [B S D] attends to itself -> [B S D] */
  toItself(x: Tensor, rope: RopeTable, tap?: Tap): Tensor {
    const seen = scope(() => {
      const [q, k, v] = linears(this.#qkv, x) as [Tensor, Tensor, Tensor];
      tap?.("norm_q", () => this.norm_q.forward(q));
      tap?.("norm_k", () => this.norm_k.forward(k));
      const turned = (x: Tensor, norm: RMSNorm): Tensor => {
        const y = scope(() => this.#split(x, norm, rope).transpose(1, 2));
        x.dispose();
        return y;
      };
      return tokenAttention(turned(q, this.norm_q), turned(k, this.norm_k), v.unflatten(-1, [this.#heads, -1]));
    });
    return scope(() => this.to_out[0].forward(seen.flatten(2)));
  }

  /** x [B S D] attends to text [B L D], and beside it to image [B I D] -> [B S D] */
  toContext(x: Tensor, text: Tensor, image: Tensor | undefined, tap?: Tap): Tensor {
    const projected = this.to_q.forward(x);
    tap?.("norm_q", () => this.norm_q.forward(projected));
    tap?.("norm_k", () => this.norm_k.forward(this.to_k.forward(text)));
    const q = this.#split(projected, this.norm_q);
    let seen = mergeHeads(
      scaledDotProductAttention(q, ...this.#keysAndValues(text, this.to_k, this.norm_k, this.to_v)),
    );
    const { add_k_proj, norm_added_k, add_v_proj } = this;
    if (image !== undefined && add_k_proj !== undefined && add_v_proj !== undefined && norm_added_k !== undefined) {
      const [k, v] = this.#keysAndValues(image, add_k_proj, norm_added_k, add_v_proj);
      seen = seen.add(mergeHeads(scaledDotProductAttention(q, k, v)));
    }
    return this.to_out[0].forward(seen);
  }

  /** Of text or image tokens [B L D] -> [B H L d] twice. They know nothing of the time: one computation serves every step. */
  #keysAndValues(tokens: Tensor, toKeys: Linear, norm: RMSNorm, toValues: Linear): [Tensor, Tensor] {
    const [k, v] = remembered(tokens, toKeys, [toKeys, norm, toValues], () => [
      this.#split(toKeys.forward(tokens), norm),
      splitHeads(toValues.forward(tokens), this.#heads),
    ]);
    return [k as Tensor, v as Tensor];
  }

  /** x [B S D] -> [B H S d], normalised over the token and turned by its position. */
  #split(x: Tensor, norm: RMSNorm, rope?: RopeTable): Tensor {
    return normRope(x, { heads: this.#heads, weight: norm.weight, over: "token", rope, eps: norm.eps });
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
    const { proj } = this.net[0];
    return scope(() => this.net[2].forward(this.#gelu === "tanh" ? linearGelu(proj, x) : proj.forward(x).gelu()));
  }
}

/** Layer norm without weights, in float32: [.. D] -> float32 [.. D] */
export const plainNorm = (x: Tensor, eps: number): Tensor => layerNorm(x.to("float32"), [x.size(-1)], null, null, eps);

/** A layer norm's weights as a modulation (1 + scale), shift. */
const asModulation = ({ weight, bias }: LayerNorm): Modulation => ({
  scale: weight === null ? null : weight.to("float32").sub(1),
  shift: bias,
});

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
  forward(x: Tensor, { time, text, image, rope }: Shared, tap?: Tap): Tensor {
    const seen = (name: string, value: Tensor): Tensor => {
      tap?.(name, () => value);
      return value;
    };
    const within = (name: string): Tap | undefined => tap && ((part, value) => tap(`${name}.${part}`, value));
    // a long clip's tokens are gigabytes: what is done with goes at once, unless somebody looks at it
    const free = (...done: Tensor[]): void => {
      if (tap === undefined) for (const each of done) each.dispose();
    };
    const [shift1, scale1, gate1, shift3, scale3, gate3] = this.scale_shift_table.add(time.to("float32")).unbind(2) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    tap?.("norm1", () => plainNorm(x, this.#eps));
    const normed = modulatedLayerNorm(x, { scale: scale1, shift: shift1 }, this.#eps);
    const attended = seen(
      "attn1",
      scope(() => this.attn1.toItself(normed, rope, within("attn1"))),
    );
    free(normed);
    const [h, cross] =
      this.norm2 === undefined
        ? sameTwice(gatedAdd(x, attended, gate1))
        : gatedAddNorm(x, attended, gate1, asModulation(this.norm2), this.norm2.eps);
    free(attended);
    tap?.("norm2", () => cross);
    const read = seen(
      "attn2",
      scope(() => this.attn2.toContext(cross, text, image, within("attn2"))),
    );
    if (cross !== h) free(cross);
    const [y, inner] = gatedAddNorm(h, read, null, { scale: scale3, shift: shift3 }, this.#eps); // the text's part has no gate
    free(h, read);
    tap?.("norm3", () => plainNorm(y, this.#eps));
    return gatedAdd(y, seen("ffn", this.ffn.forward(inner)), gate3);
  }
}

const sameTwice = (x: Tensor): [Tensor, Tensor] => [x, x];
