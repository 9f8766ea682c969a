/**
 * The layers of SigLIP's towers (Zhai et al. 2023, arXiv 2303.15343; key names of Transformers), and the head that pools an
 * image's patches. Axes: B batch, L tokens, D width, H heads.
 */
import {
  LayerNorm,
  Linear,
  linear,
  Module,
  multiHeadAttention,
  normalInit,
  type Parameter,
  type Tensor,
  xavierUniformInit,
  zerosInit,
} from "../../native/index.ts";
import type { TowerConfig } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

class Attention extends Module {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly out_proj: Linear;
  readonly #heads: number;

  constructor({ hidden_size: D, num_attention_heads }: TowerConfig) {
    super();
    this.#heads = num_attention_heads;
    const project = (): Linear => new Linear(D, D, { init: xavierUniformInit(), biasInit: zerosInit });
    this.q_proj = project();
    this.k_proj = project();
    this.v_proj = project();
    this.out_proj = project();
  }

  /** x [B L D], mask [B 1 1 L] bool -> [B L D] */
  forward(x: Tensor, mask: Tensor | null): Tensor {
    const [q, k, v] = [this.q_proj.forward(x), this.k_proj.forward(x), this.v_proj.forward(x)] as const;
    return this.out_proj.forward(multiHeadAttention(q, k, v, this.#heads, { mask }));
  }
}

class Mlp extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;
  readonly #gelu: "tanh" | "none";

  constructor({ hidden_size: D, intermediate_size, hidden_act }: TowerConfig) {
    super();
    this.#gelu = hidden_act === "gelu" ? "none" : "tanh";
    const [init, biasInit] = [xavierUniformInit(), normalInit(1e-6)];
    this.fc1 = new Linear(D, intermediate_size, { init, biasInit });
    this.fc2 = new Linear(intermediate_size, D, { init, biasInit });
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.fc1.forward(x).gelu(this.#gelu));
  }
}

/** Norm before attention and before the feed-forward, a residual around each. */
export class EncoderLayer extends Module {
  readonly self_attn: Attention;
  readonly layer_norm1: LayerNorm;
  readonly mlp: Mlp;
  readonly layer_norm2: LayerNorm;

  constructor(config: TowerConfig) {
    super();
    this.self_attn = new Attention(config);
    this.layer_norm1 = new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
    this.mlp = new Mlp(config);
    this.layer_norm2 = new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
  }

  forward(x: Tensor, mask: Tensor | null): Tensor {
    const y = x.add(this.self_attn.forward(this.layer_norm1.forward(x), mask));
    return y.add(this.mlp.forward(this.layer_norm2.forward(y)));
  }
}

/** torch's MultiheadAttention: one matrix for queries, keys and values. */
class PackedAttention extends Module {
  readonly in_proj_weight: Parameter;
  readonly in_proj_bias: Parameter;
  readonly out_proj: Linear;
  readonly #heads: number;

  constructor({ hidden_size: D, num_attention_heads }: TowerConfig) {
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
  readonly mlp: Mlp;

  constructor(config: TowerConfig) {
    super();
    this.probe = this.parameter([1, 1, config.hidden_size], xavierUniformInit());
    this.attention = new PackedAttention(config);
    this.layernorm = new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
    this.mlp = new Mlp(config);
  }

  /** x [B P D] -> [B D] */
  forward(x: Tensor): Tensor {
    const seen = this.attention.forward(this.probe.expand([x.size(0), -1, -1]), x);
    return seen.add(this.mlp.forward(this.layernorm.forward(seen))).select(1, 0);
  }
}
