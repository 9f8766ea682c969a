// The causal decoder of Llama (Touvron et al. 2023, arXiv 2302.13971), Qwen2 (arXiv 2407.10671) and their relatives:
// pre-norm blocks, grouped queries, rotary positions, gated MLP. Three plugins read it, each below its own keys.
//
// Children are named by Hugging Face's checkpoint keys. Axes: B batch, S tokens, K keys (past and new), D width, H heads,
// d width of a head.
import { EngineError } from "../errors.ts";
import { scaledDotProductAttention } from "../functional.ts";
import { arange, op, tensor } from "../ops.ts";
import { scope } from "../scope.ts";
import type { Device, Tensor } from "../tensor.ts";
import { mergeHeads, splitHeads } from "./attention.ts";
import { throughBlocks } from "./blocks.ts";
import type { KVCache } from "./cache.ts";
import { normalInit } from "./init.ts";
import { Embedding, RMSNorm } from "./layers.ts";
import { Linear } from "./linear.ts";
import { Module } from "./module.ts";
import { applyRopeHalves, type RopeTable } from "./rope.ts";

/** The architecture, in the words of `config.json`. */
export interface DecoderConfig {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  readonly rms_norm_eps: number;
  /** Of q, k and v; the output projection has none. */
  readonly qkv_bias: boolean;
  readonly rope_theta: number;
  /** Frequencies of a head that read time, height and width, where tokens have three positions (Qwen2-VL 2.1). */
  readonly mrope_section?: readonly number[] | undefined;
}

/** Positions of a batch, [B][S]: one table, or three (time, height, width) with `mrope_section`. */
export type Positions = readonly (readonly (readonly number[])[])[];

const indexCopy = op("aten::index_copy");

/** The standard deviation that transformers draws fresh weights with (`initializer_range`). */
const INIT = normalInit(0.02);

export interface DecoderInput {
  readonly positions: Positions;
  /** [B K] bool: which keys are tokens; all of them when absent. */
  readonly real?: Tensor | undefined;
  /** Keys and values of what came before; this pass's are added. */
  readonly cache?: KVCache | undefined;
  readonly tap?: ((name: string, value: Tensor) => void) | undefined;
}

/** Which keys a query sees. */
interface Sight {
  readonly mask: Tensor | null;
  readonly causal: boolean;
}

export class GroupedAttention extends Module {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly o_proj: Linear;
  readonly #config: DecoderConfig;

  constructor(config: DecoderConfig) {
    super();
    this.#config = config;
    const { hidden_size: D, head_dim: d, num_attention_heads: H, num_key_value_heads: G, qkv_bias: bias } = config;
    this.q_proj = new Linear(D, H * d, { bias, init: INIT });
    this.k_proj = new Linear(D, G * d, { bias, init: INIT });
    this.v_proj = new Linear(D, G * d, { bias, init: INIT });
    this.o_proj = new Linear(H * d, D, { bias: false, init: INIT });
  }

  /** x [B S D] -> [B S D] */
  forward(x: Tensor, rope: RopeTable, { mask, causal }: Sight, layer: number, cache: KVCache | undefined): Tensor {
    const { num_attention_heads: H, num_key_value_heads: G } = this.#config;
    const q = applyRopeHalves(splitHeads(this.q_proj.forward(x), H), rope);
    let k = applyRopeHalves(splitHeads(this.k_proj.forward(x), G), rope);
    let v = splitHeads(this.v_proj.forward(x), G);
    if (cache !== undefined) [k, v] = cache.append(layer, k, v);
    return this.o_proj.forward(mergeHeads(scaledDotProductAttention(q, k, v, { mask, causal, gqa: H !== G })));
  }
}

/** down(silu(gate(x)) * up(x)) (Shazeer 2020, SwiGLU). */
export class GatedMLP extends Module {
  readonly gate_proj: Linear;
  readonly up_proj: Linear;
  readonly down_proj: Linear;

  constructor(dim: number, inner: number, { bias = false }: { bias?: boolean } = {}) {
    super();
    this.gate_proj = new Linear(dim, inner, { bias, init: INIT });
    this.up_proj = new Linear(dim, inner, { bias, init: INIT });
    this.down_proj = new Linear(inner, dim, { bias, init: INIT });
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(this.gate_proj.forward(x).silu().mul(this.up_proj.forward(x)));
  }
}

class DecoderLayer extends Module {
  readonly self_attn: GroupedAttention;
  readonly mlp: GatedMLP;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;

  constructor(config: DecoderConfig) {
    super();
    const { hidden_size: D, intermediate_size, rms_norm_eps: eps } = config;
    this.self_attn = new GroupedAttention(config);
    this.mlp = new GatedMLP(D, intermediate_size);
    this.input_layernorm = new RMSNorm(D, { eps });
    this.post_attention_layernorm = new RMSNorm(D, { eps });
  }

  /** x [B S D] -> [B S D] */
  forward(x: Tensor, rope: RopeTable, sight: Sight, layer: number, cache: KVCache | undefined): Tensor {
    const y = x.add(this.self_attn.forward(this.input_layernorm.forward(x), rope, sight, layer, cache));
    return y.add(this.mlp.forward(this.post_attention_layernorm.forward(y)));
  }
}

export class CausalDecoder extends Module {
  readonly embed_tokens: Embedding;
  readonly layers: readonly DecoderLayer[];
  readonly norm: RMSNorm;
  readonly #config: DecoderConfig;

  constructor(config: DecoderConfig) {
    super();
    this.#config = config;
    this.embed_tokens = new Embedding(config.vocab_size, config.hidden_size, { init: INIT });
    this.layers = Array.from({ length: config.num_hidden_layers }, () => new DecoderLayer(config));
    this.norm = new RMSNorm(config.hidden_size, { eps: config.rms_norm_eps });
  }

  /**
   * ids [B][S] -> [B S D]. Where `isMark` holds for an id, the next row of `tokens` [M D] stands in its place: what a tower
   * made of an image; there must be as many marks as rows.
   */
  embed(ids: readonly (readonly number[])[], inPlace?: { isMark: (id: number) => boolean; tokens: Tensor }): Tensor {
    const { device, dtype } = this.embed_tokens.weight;
    const int64 = { dtype: "int64", device } as const;
    return scope(() => {
      const x = this.embed_tokens.forward(
        tensor(
          ids.map((row) => [...row]),
          int64,
        ),
      );
      if (inPlace === undefined) return x;
      const marks = ids.flat().flatMap((id, at) => (inPlace.isMark(id) ? [at] : []));
      const { tokens } = inPlace;
      if (tokens.size(0) !== marks.length)
        throw new EngineError(
          "tensor_shape",
          `${marks.length} marks in the text for ${tokens.size(0)} tokens of images`,
        );
      return indexCopy(x.flatten(0, 1), 0, tensor(marks, int64), tokens.to(dtype)).view(x.shape);
    });
  }

  override offloadable(): readonly Module[] {
    return this.layers;
  }

  /** x [B S D], embedded tokens -> states after the last norm [B S D]. Rows that `real` leaves out are computed and mean nothing. */
  forward(x: Tensor, { positions, real, cache, tap }: DecoderInput): Tensor {
    return scope(() => {
      const past = cache?.length ?? 0;
      const rope = textRope(positions, this.#config, x.device);
      const sight = sightOf(x.size(1), past, real, x.device);
      const step = (layer: DecoderLayer, h: Tensor, i: number): Tensor => {
        tap?.(`hidden_states.${i}`, h);
        return layer.forward(h, rope, sight, i, cache);
      };
      const h = throughBlocks(this.layers, x, step, { keep: tap !== undefined });
      cache?.advance(x.size(1));
      const states = this.norm.forward(h);
      tap?.(`hidden_states.${this.layers.length}`, states);
      return states;
    });
  }
}

function sightOf(S: number, past: number, real: Tensor | undefined, device: Device): Sight {
  if (real === undefined && S === 1) return { mask: null, causal: false };
  if (real === undefined && past === 0) return { mask: null, causal: true };
  const query = arange(past, past + S, 1, { dtype: "int64", device }).unsqueeze(1);
  const key = arange(0, past + S, 1, { dtype: "int64", device });
  const before = key.le(query);
  if (real === undefined) return { mask: before, causal: false };
  if (real.size(1) !== past + S)
    throw new EngineError("tensor_shape", `a decoder of ${past} + ${S} tokens was given a mask of [${real.shape}]`);
  // a padded query sees itself: a row without keys would be NaN
  return { mask: before.logicalAnd(real.unsqueeze(1)).logicalOr(key.eq(query)).unsqueeze(1), causal: false };
}

/** cos and sin [B, S, d / 2]. Frequencies and angles are float32, as transformers takes them: far positions round alike. */
function textRope(positions: Positions, config: DecoderConfig, device: Device): RopeTable {
  const { head_dim, rope_theta, mrope_section: sections } = config;
  const columns = head_dim / 2;
  const frequency = Float32Array.from(
    { length: columns },
    (_, i) => 1 / Math.fround(rope_theta ** Math.fround((2 * i) / head_dim)),
  );
  if (positions.length !== (sections === undefined ? 1 : sections.length))
    throw new EngineError("tensor_shape", `${positions.length} tables of positions for ${sections?.length ?? 1} axes`);
  const axes =
    sections === undefined
      ? new Array<number>(columns).fill(0)
      : sections.flatMap((n, axis) => new Array<number>(n).fill(axis));
  if (axes.length !== columns)
    throw new EngineError("tensor_shape", `mrope_section [${sections}] must add up to half a head, ${columns}`);
  const [B, S] = [positions[0]?.length ?? 0, positions[0]?.[0]?.length ?? 0];
  const angles = new Float32Array(B * S * columns);
  let at = 0;
  for (let row = 0; row < B; row++)
    for (let s = 0; s < S; s++)
      for (let i = 0; i < columns; i++)
        angles[at++] = (positions[axes[i] as number]?.[row]?.[s] as number) * (frequency[i] as number);
  const table = (f: (x: number) => number): Tensor =>
    tensor(Float32Array.from(angles, f), { device }).view([B, S, columns]);
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
