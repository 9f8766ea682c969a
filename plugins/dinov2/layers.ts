/**
 * The layers of DINOv2 (Oquab et al. 2023, arXiv 2304.07193; key names of Transformers).
 * Axes: B batch, L tokens, D width, H heads.
 */
import {
  constantInit,
  LayerNorm,
  Linear,
  Module,
  multiHeadAttention,
  type Parameter,
  type Tensor,
  truncNormalInit,
  zerosInit,
} from "../../native/index.ts";
import { type Dinov2Config, gatedWidth } from "./params.ts";

const linear = (from: number, to: number, bias = true): Linear =>
  new Linear(from, to, { bias, init: truncNormalInit(0.02), biasInit: zerosInit });

class Attention extends Module {
  readonly attention: { readonly query: Linear; readonly key: Linear; readonly value: Linear };
  readonly output: { readonly dense: Linear };
  readonly #heads: number;

  constructor({ hidden_size: D, num_attention_heads, qkv_bias }: Dinov2Config) {
    super();
    this.#heads = num_attention_heads;
    this.attention = { query: linear(D, D, qkv_bias), key: linear(D, D, qkv_bias), value: linear(D, D, qkv_bias) };
    this.output = { dense: linear(D, D) };
  }

  /** x [B L D] -> [B L D] */
  forward(x: Tensor): Tensor {
    const { query, key, value } = this.attention;
    const [q, k, v] = [query.forward(x), key.forward(x), value.forward(x)] as const;
    return this.output.dense.forward(multiHeadAttention(q, k, v, this.#heads));
  }
}

class Mlp extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;
  readonly #gelu: "tanh" | "none";

  constructor({ hidden_size: D, mlp_ratio, hidden_act }: Dinov2Config) {
    super();
    const inner = Math.floor(D * mlp_ratio);
    this.#gelu = hidden_act === "gelu" ? "none" : "tanh";
    this.fc1 = linear(D, inner);
    this.fc2 = linear(inner, D);
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.fc1.forward(x).gelu(this.#gelu));
  }
}

/** silu(a) * b, both from one projection. */
class GatedMlp extends Module {
  readonly weights_in: Linear;
  readonly weights_out: Linear;

  constructor(config: Dinov2Config) {
    super();
    const inner = gatedWidth(config);
    this.weights_in = linear(config.hidden_size, 2 * inner);
    this.weights_out = linear(inner, config.hidden_size);
  }

  forward(x: Tensor): Tensor {
    const [a, b] = this.weights_in.forward(x).chunk(2, -1) as [Tensor, Tensor];
    return this.weights_out.forward(a.silu().mul(b));
  }
}

/** Attention and feed-forward, each behind a norm and scaled by a vector (LayerScale, arXiv 2103.17239) before it is added. */
export class Layer extends Module {
  readonly norm1: LayerNorm;
  readonly attention: Attention;
  readonly layer_scale1: { readonly lambda1: Parameter };
  readonly norm2: LayerNorm;
  readonly mlp: Mlp | GatedMlp;
  readonly layer_scale2: { readonly lambda1: Parameter };

  constructor(config: Dinov2Config) {
    super();
    const { hidden_size: D, layer_norm_eps: eps, layerscale_value } = config;
    const scale = (): { readonly lambda1: Parameter } => ({
      lambda1: this.parameter([D], constantInit(layerscale_value)),
    });
    this.norm1 = new LayerNorm(D, { eps });
    this.attention = new Attention(config);
    this.layer_scale1 = scale();
    this.norm2 = new LayerNorm(D, { eps });
    this.mlp = config.use_swiglu_ffn ? new GatedMlp(config) : new Mlp(config);
    this.layer_scale2 = scale();
  }

  /** x [B L D] -> [B L D] */
  forward(x: Tensor): Tensor {
    const y = x.add(this.attention.forward(this.norm1.forward(x)).mul(this.layer_scale1.lambda1));
    return y.add(this.mlp.forward(this.norm2.forward(y)).mul(this.layer_scale2.lambda1));
  }
}
