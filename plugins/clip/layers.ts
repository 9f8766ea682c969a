/**
 * The layers that both towers of CLIP are made of (Radford et al. 2021, arXiv 2103.00020; key names of Transformers).
 * Axes: B batch, L tokens, D width, H heads.
 */
import { LayerNorm, Linear, Module, multiHeadAttention, normalInit, type Tensor } from "../../native/index.ts";
import type { Activation, TowerConfig } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

const ACTIVATIONS: Readonly<Record<Activation, (x: Tensor) => Tensor>> = {
  quick_gelu: (x) => x.mul(x.mul(1.702).sigmoid()),
  gelu: (x) => x.gelu(),
  gelu_new: (x) => x.gelu("tanh"),
  gelu_pytorch_tanh: (x) => x.gelu("tanh"),
};

export class Attention extends Module {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly out_proj: Linear;
  readonly #heads: number;

  constructor({ hidden_size: D, num_attention_heads, num_hidden_layers }: TowerConfig) {
    super();
    this.#heads = num_attention_heads;
    // residual branches start smaller by the root of their number (arXiv 2103.00020, appendix; Transformers' initialiser)
    const init = normalInit(D ** -0.5 * (2 * num_hidden_layers) ** -0.5);
    this.q_proj = new Linear(D, D, { init });
    this.k_proj = new Linear(D, D, { init });
    this.v_proj = new Linear(D, D, { init });
    this.out_proj = new Linear(D, D, { init: normalInit(D ** -0.5) });
  }

  /** x [B L D], mask [B or 1, 1, L, L] bool -> [B L D] */
  forward(x: Tensor, mask: Tensor | null): Tensor {
    const [q, k, v] = [this.q_proj.forward(x), this.k_proj.forward(x), this.v_proj.forward(x)] as const;
    return this.out_proj.forward(multiHeadAttention(q, k, v, this.#heads, { mask }));
  }
}

class Mlp extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;
  readonly #activation: Activation;

  constructor({ hidden_size: D, intermediate_size, num_hidden_layers, hidden_act }: TowerConfig) {
    super();
    this.#activation = hidden_act;
    this.fc1 = new Linear(D, intermediate_size, { init: normalInit((2 * D) ** -0.5) });
    this.fc2 = new Linear(intermediate_size, D, { init: normalInit(D ** -0.5 * (2 * num_hidden_layers) ** -0.5) });
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(ACTIVATIONS[this.#activation](this.fc1.forward(x)));
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

export const layersOf = (config: TowerConfig): EncoderLayer[] =>
  Array.from({ length: config.num_hidden_layers }, () => new EncoderLayer(config));
