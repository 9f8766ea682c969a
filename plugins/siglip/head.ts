/** The head that pools an image's patches in SigLIP (Zhai et al. 2023, arXiv 2303.15343). Axes: B batch, L tokens, D width. */
import {
  type EncoderConfig,
  EncoderMlp,
  LayerNorm,
  Linear,
  linear,
  Module,
  multiHeadAttention,
  type Parameter,
  type Tensor,
  xavierUniformInit,
  zerosInit,
} from "../../native/index.ts";

/** torch's MultiheadAttention: one matrix for queries, keys and values. */
class PackedAttention extends Module {
  readonly in_proj_weight: Parameter;
  readonly in_proj_bias: Parameter;
  readonly out_proj: Linear;
  readonly #heads: number;

  constructor({ hidden_size: D, num_attention_heads }: EncoderConfig) {
    super();
    this.#heads = num_attention_heads;
    this.in_proj_weight = this.parameter([3 * D, D], xavierUniformInit());
    this.in_proj_bias = this.parameter([3 * D], zerosInit);
    this.out_proj = new Linear(D, D, { init: xavierUniformInit(), biasInit: zerosInit });
  }

  /** query [B Q D] over x [B L D] -> [B Q D] */
  forward(query: Tensor, x: Tensor): Tensor {
    const D = query.size(2);
    const [wq, wkv] = this.in_proj_weight.split([D, 2 * D]) as [Tensor, Tensor];
    const [bq, bkv] = this.in_proj_bias.split([D, 2 * D]) as [Tensor, Tensor];
    const [k, v] = linear(x, wkv, bkv).chunk(2, -1) as [Tensor, Tensor];
    return this.out_proj.forward(multiHeadAttention(linear(query, wq, bq), k, v, this.#heads));
  }
}

/** One learned query asks all patches (SigLIP's MAP head); a feed-forward follows. */
export class PoolingHead extends Module {
  readonly probe: Parameter;
  readonly attention: PackedAttention;
  readonly layernorm: LayerNorm;
  readonly mlp: EncoderMlp;

  constructor(config: EncoderConfig) {
    super();
    this.probe = this.parameter([1, 1, config.hidden_size], xavierUniformInit());
    this.attention = new PackedAttention(config);
    this.layernorm = new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
    this.mlp = new EncoderMlp(config);
  }

  /** x [B P D] -> [B D] */
  forward(x: Tensor): Tensor {
    const seen = this.attention.forward(this.probe.expand([x.size(0), -1, -1]), x);
    return seen.add(this.mlp.forward(this.layernorm.forward(seen))).select(1, 0);
  }
}
