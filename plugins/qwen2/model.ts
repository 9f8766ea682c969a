/**
 * Qwen2ForCausalLM (arXiv 2407.10671; Qwen2.5: 2412.15115) and LlamaForCausalLM: the decoder of native/nn/decoder.ts with a head
 * over the vocabulary. Children are named by the checkpoint's keys.
 *
 * Axes: B batch, S tokens, D width, V vocabulary.
 */
import {
  CausalDecoder,
  type GenerateOptions,
  generate,
  type KVCache,
  type LanguageModel,
  Linear,
  linear,
  Module,
  normalInit,
  padLeft,
  scope,
  type Tensor,
} from "../../native/index.ts";
import type { DecoderConfig } from "../language.ts";

export type Tap = (name: string, value: Tensor) => void;

export class CausalLM extends Module implements LanguageModel {
  readonly model: CausalDecoder;
  /** Absent where the embedding serves as the head as well. */
  readonly lm_head: Linear | undefined;

  constructor(config: DecoderConfig) {
    super();
    this.model = new CausalDecoder(config);
    if (config.tie_word_embeddings) return;
    this.lm_head = new Linear(config.hidden_size, config.vocab_size, { bias: false, init: normalInit(0.02) });
  }

  get decoder(): CausalDecoder {
    return this.model;
  }

  /** states [.. D] -> logits [.. V] */
  head(states: Tensor): Tensor {
    return this.lm_head?.forward(states) ?? linear(states, this.model.embed_tokens.weight);
  }

  /**
   * ids [B S] int64, mask [B S] (1 = token, 0 = padding on the left) -> logits [B S V]. Positions count columns, padding
   * included, as a plain forward of the reference does; `generate` counts tokens. A cache holds what came before.
   */
  forward(ids: Tensor, { mask, cache, tap }: { mask?: Tensor; cache?: KVCache; tap?: Tap } = {}): Tensor {
    return scope(() => {
      const past = cache?.length ?? 0;
      const columns = Array.from({ length: ids.size(1) }, (_, i) => past + i);
      const positions = [Array.from({ length: ids.size(0) }, () => columns)];
      const real = mask?.to("bool");
      const x = this.model.embed_tokens.forward(ids);
      return this.head(this.model.forward(x, { positions, real, cache, tap }));
    });
  }

  /** Continues prompts of any lengths; one new token a row a step, null for rows that have ended. */
  generate(
    prompts: readonly (readonly number[])[],
    options: GenerateOptions,
  ): IterableIterator<readonly (number | null)[]> {
    const open = () => {
      const { ids, real, positions } = padLeft(prompts, 0);
      return { x: this.model.embed(ids), real, positions: [positions] };
    };
    return generate(this, prompts, open, options);
  }
}
