/**
 * The encoder of T5 1.1 (Raffel et al. 2020, arXiv 1910.10683) and umT5 (Chung et al. 2023): pre-norm blocks, distances instead
 * of positions, no biases, no scaling of scores.
 *
 * Children are named by the checkpoint's keys. Axes: B batch, L tokens, D width, H heads.
 */
import {
  arange,
  Embedding,
  Linear,
  Module,
  mergeHeads,
  normalInit,
  RMSNorm,
  scaledDotProductAttention,
  scope,
  splitHeads,
  type Tensor,
  throughBlocks,
  where,
} from "../../native/index.ts";
import { biasInEveryLayer, type T5Config } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

/** Added to the score of a padded key: its weight is then zero in every dtype. */
const MASKED = -1e30;

class SelfAttention extends Module {
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly o: Linear;
  readonly relative_attention_bias: Embedding | undefined;
  readonly #heads: number;

  constructor(config: T5Config, ownsBias: boolean) {
    super();
    const { d_model, d_kv, num_heads, relative_attention_num_buckets } = config;
    const inner = num_heads * d_kv;
    this.#heads = num_heads;
    // scores are not scaled, so q starts smaller by the root of the head's width (the T5 initialiser)
    this.q = linear(d_model, inner, (d_model * d_kv) ** -0.5);
    this.k = linear(d_model, inner, d_model ** -0.5);
    this.v = linear(d_model, inner, d_model ** -0.5);
    this.o = linear(inner, d_model, inner ** -0.5);
    this.relative_attention_bias = ownsBias
      ? new Embedding(relative_attention_num_buckets, num_heads, { init: normalInit(d_model ** -0.5) })
      : undefined;
  }

  /** x [B L D], bias [B or 1, H, L, L] -> [B L D] */
  forward(x: Tensor, bias: Tensor): Tensor {
    const [q, k, v] = [this.q, this.k, this.v].map((project) => splitHeads(project.forward(x), this.#heads)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    return this.o.forward(mergeHeads(scaledDotProductAttention(q, k, v, { mask: bias, scale: 1 })));
  }
}

class GatedFeedForward extends Module {
  readonly wi_0: Linear;
  readonly wi_1: Linear;
  readonly wo: Linear;

  constructor({ d_model, d_ff }: T5Config) {
    super();
    this.wi_0 = linear(d_model, d_ff, d_model ** -0.5);
    this.wi_1 = linear(d_model, d_ff, d_model ** -0.5);
    this.wo = linear(d_ff, d_model, d_ff ** -0.5);
  }

  forward(x: Tensor): Tensor {
    return this.wo.forward(this.wi_0.forward(x).gelu("tanh").mul(this.wi_1.forward(x)));
  }
}

class Block extends Module {
  readonly layer: readonly [
    { readonly SelfAttention: SelfAttention; readonly layer_norm: RMSNorm },
    { readonly DenseReluDense: GatedFeedForward; readonly layer_norm: RMSNorm },
  ];

  constructor(config: T5Config, ownsBias: boolean) {
    super();
    const norm = (): RMSNorm => new RMSNorm(config.d_model, { eps: config.layer_norm_epsilon });
    this.layer = [
      { SelfAttention: new SelfAttention(config, ownsBias), layer_norm: norm() },
      { DenseReluDense: new GatedFeedForward(config), layer_norm: norm() },
    ];
  }

  forward(x: Tensor, bias: Tensor): Tensor {
    const [attention, feedForward] = this.layer;
    const y = x.add(attention.SelfAttention.forward(attention.layer_norm.forward(x), bias));
    return y.add(feedForward.DenseReluDense.forward(feedForward.layer_norm.forward(y)));
  }
}

export class T5Encoder extends Module {
  readonly shared: Embedding;
  readonly encoder: { readonly block: readonly Block[]; readonly final_layer_norm: RMSNorm };
  readonly #config: T5Config;

  constructor(config: T5Config) {
    super();
    this.#config = config;
    this.shared = new Embedding(config.vocab_size, config.d_model);
    this.encoder = {
      block: Array.from(
        { length: config.num_layers },
        (_, i) => new Block(config, i === 0 || biasInEveryLayer(config)),
      ),
      final_layer_norm: new RMSNorm(config.d_model, { eps: config.layer_norm_epsilon }),
    };
  }

  override offloadable(): readonly Module[] {
    return this.encoder.block;
  }

  /** ids [B L] int64, mask [B L] (1 = token, 0 = padding) -> states [B L D]. Padded keys are masked; padded queries are computed too. */
  forward(ids: Tensor, mask?: Tensor, tap?: Tap): Tensor {
    return scope(() => {
      const buckets = this.#buckets(ids.size(1), ids.device);
      const padding = mask?.to("bool").logicalNot().unsqueeze(1).unsqueeze(2); // [B 1 1 L]
      const start: { x: Tensor; bias?: Tensor } = { x: this.shared.forward(ids) };
      const { x } = throughBlocks(
        this.encoder.block,
        start,
        (block, { x, bias }, i) => {
          tap?.(`hidden_states.${i}`, x);
          const table = block.layer[0].SelfAttention.relative_attention_bias;
          if (table !== undefined) {
            const distances = table.forward(buckets).permute([2, 0, 1]).unsqueeze(0); // [1 H L L]
            tap?.(`position_bias.layer${i}`, distances);
            bias = padding === undefined ? distances : distances.maskedFill(padding, MASKED);
          }
          return { x: block.forward(x, bias as Tensor), ...(bias === undefined ? {} : { bias }) };
        },
        { keep: tap !== undefined },
      );
      const states = this.encoder.final_layer_norm.forward(x);
      tap?.(`hidden_states.${this.encoder.block.length}`, states);
      return states;
    });
  }

  /**
   * Bucket of each distance key - query, [L L] int64: one half of the buckets for keys ahead; in each half, small distances have
   * their own, larger ones share by the logarithm, in float32 as the reference takes it.
   */
  #buckets(length: number, device: string): Tensor {
    const { relative_attention_num_buckets, relative_attention_max_distance } = this.#config;
    const half = relative_attention_num_buckets / 2;
    const exact = half / 2;
    const at = arange(0, length, 1, { dtype: "int64", device });
    const distance = at.unsqueeze(0).sub(at.unsqueeze(1));
    const far = distance.abs();
    const logarithmic = far
      .to("float32")
      .div(exact)
      .log()
      .div(Math.log(relative_attention_max_distance / exact))
      .mul(half - exact);
    const shared = logarithmic
      .clamp(0, half - 1 - exact)
      .to("int64")
      .add(exact);
    return where(far.lt(exact), far, shared).add(distance.gt(0).to("int64").mul(half));
  }
}

const linear = (from: number, to: number, std: number): Linear =>
  new Linear(from, to, { bias: false, init: normalInit(std) });
