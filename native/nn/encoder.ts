// The pre-norm block of CLIP's and SigLIP's towers (Dosovitskiy et al. 2021, arXiv 2010.11929; Radford et al. 2021,
// arXiv 2103.00020), and positions of another grid than was trained. Children are named by Transformers' checkpoint keys.
//
// Axes: B batch, L tokens, D width, H heads, y x rows and columns of patches.
import { interpolate } from "../functional.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { multiHeadAttention } from "./attention.ts";
import { throughBlocks } from "./blocks.ts";
import { normalInit, zerosInit } from "./init.ts";
import { LayerNorm } from "./layers.ts";
import { Linear } from "./linear.ts";
import { Module } from "./module.ts";

/** `quick_gelu` is OpenAI's x * sigmoid(1.702 x), `gelu` the exact one; the other two are one formula by two names. */
export type Activation = "quick_gelu" | "gelu" | "gelu_new" | "gelu_pytorch_tanh";

/** The architecture, in the words of `config.json`. */
export interface EncoderConfig {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly hidden_act: Activation;
  readonly layer_norm_eps: number;
}

const ACTIVATIONS: Readonly<Record<Activation, (x: Tensor) => Tensor>> = {
  quick_gelu: (x) => x.mul(x.mul(1.702).sigmoid()),
  gelu: (x) => x.gelu(),
  gelu_new: (x) => x.gelu("tanh"),
  gelu_pytorch_tanh: (x) => x.gelu("tanh"),
};

/** The standard deviation that transformers draws fresh weights with (`initializer_range`). */
const INIT = normalInit(0.02);
const linear = (from: number, to: number): Linear => new Linear(from, to, { init: INIT, biasInit: zerosInit });

class Attention extends Module {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly out_proj: Linear;
  readonly #heads: number;

  constructor({ hidden_size: D, num_attention_heads }: EncoderConfig) {
    super();
    this.#heads = num_attention_heads;
    this.q_proj = linear(D, D);
    this.k_proj = linear(D, D);
    this.v_proj = linear(D, D);
    this.out_proj = linear(D, D);
  }

  forward(x: Tensor, mask: Tensor | null): Tensor {
    const [q, k, v] = [this.q_proj.forward(x), this.k_proj.forward(x), this.v_proj.forward(x)] as const;
    return this.out_proj.forward(multiHeadAttention(q, k, v, this.#heads, { mask }));
  }
}

/** linear, activation, linear */
export class EncoderMlp extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;
  readonly #activation: Activation;

  constructor({ hidden_size: D, intermediate_size, hidden_act }: EncoderConfig) {
    super();
    this.#activation = hidden_act;
    this.fc1 = linear(D, intermediate_size);
    this.fc2 = linear(intermediate_size, D);
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(ACTIVATIONS[this.#activation](this.fc1.forward(x)));
  }
}

/** Norm before attention and before the feed-forward, a residual around each. */
export class EncoderLayer extends Module {
  readonly self_attn: Attention;
  readonly layer_norm1: LayerNorm;
  readonly mlp: EncoderMlp;
  readonly layer_norm2: LayerNorm;

  constructor(config: EncoderConfig) {
    super();
    this.self_attn = new Attention(config);
    this.layer_norm1 = new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
    this.mlp = new EncoderMlp(config);
    this.layer_norm2 = new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
  }

  /** x [B L D], mask [B or 1, 1, L or 1, L] bool (true is seen) -> [B L D] */
  forward(x: Tensor, mask: Tensor | null): Tensor {
    const y = x.add(this.self_attn.forward(this.layer_norm1.forward(x), mask));
    return y.add(this.mlp.forward(this.layer_norm2.forward(y)));
  }
}

/** A stack of layers, at `layers` in the checkpoints. */
export class Encoder extends Module {
  readonly layers: readonly EncoderLayer[];

  constructor(config: EncoderConfig) {
    super();
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new EncoderLayer(config));
  }

  /** x [B L D] -> [B L D]; `skipLast` layers are left out. Taps are `hidden_states.K`, as Transformers counts them. */
  forward(x: Tensor, { mask = null, skipLast = 0, tap }: EncoderHow = {}): Tensor {
    return scope(() => {
      tap?.("hidden_states.0", x);
      return throughBlocks(this.layers.slice(0, this.layers.length - skipLast), x, (layer, y, i) => {
        const z = layer.forward(y, mask);
        tap?.(`hidden_states.${i + 1}`, z);
        return z;
      });
    });
  }
}

export interface EncoderHow {
  readonly mask?: Tensor | null;
  readonly skipLast?: number;
  readonly tap?: ((name: string, value: Tensor) => void) | undefined;
}

/** Positions of a square grid [side*side D] -> those of another grid [1 y*x D], bicubic, in float32; as stored when it is the same. */
export function resizePositions(table: Tensor, y: number, x: number, { antialias = false } = {}): Tensor {
  const side = Math.sqrt(table.size(0));
  return scope(() => {
    if (y === side && x === side) return table.unsqueeze(0);
    const grid = table.reshape([1, side, side, -1]).permute([0, 3, 1, 2]).to("float32");
    const resized = interpolate(grid, { size: [y, x], mode: "bicubic", antialias });
    return resized
      .to(table.dtype)
      .permute([0, 2, 3, 1])
      .reshape([1, y * x, -1]);
  });
}
