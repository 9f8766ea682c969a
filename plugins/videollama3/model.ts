/**
 * VideoLlama3ForConditionalGeneration (arXiv 2501.13106): a vision tower, a projector, a Qwen2 decoder; tokens of images and videos
 * stand in the place of marks in the text. Children are named by the checkpoint's keys.
 *
 * Axes: B batch, S tokens, D width, V vocabulary.
 */
import {
  CausalDecoder,
  cat,
  type GenerateOptions,
  generate,
  type LanguageModel,
  Linear,
  linear,
  Module,
  normalInit,
  type Opening,
  type PatchGrid,
  padLeft,
  scope,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import type { VideoLlama3Config } from "./params.ts";
import { VisionTower } from "./vision.ts";

/** An image or a video, cut into patches. */
export interface Visual {
  readonly kind: "image" | "video";
  /** [N, pixels of a patch], blocks of `merge` x `merge` consecutive. */
  readonly patches: Tensor;
  readonly grid: PatchGrid;
  readonly merge: number;
  /** Which of a video's tokens are kept, [N / merge^2]; all when absent (2.2: those like the frame before may go). */
  readonly kept?: readonly boolean[];
}

/** Token ids, with as many marks for each image and video as it keeps tokens, and these in the order of their marks. */
export interface VisualPrompt {
  readonly ids: readonly number[];
  readonly visuals: readonly Visual[];
}

/** linear, GELU, linear */
class Projector extends Module {
  readonly readout: readonly [Linear, undefined, Linear];

  constructor(from: number, to: number) {
    super();
    this.readout = [new Linear(from, to), undefined, new Linear(to, to)];
  }

  forward(x: Tensor): Tensor {
    return this.readout[2].forward(this.readout[0].forward(x).gelu());
  }
}

export class VideoLlama3 extends Module implements LanguageModel {
  readonly model: {
    readonly vision_model: VisionTower;
    readonly projector: Projector;
    readonly language_model: CausalDecoder;
  };
  /** Absent where the embedding serves as the head as well. */
  readonly lm_head: Linear | undefined;
  readonly #config: VideoLlama3Config;

  constructor(config: VideoLlama3Config) {
    super();
    this.#config = config;
    const { vision, text } = config;
    this.model = {
      vision_model: new VisionTower(vision),
      projector: new Projector(vision.hidden_size, text.hidden_size),
      language_model: new CausalDecoder(text),
    };
    if (text.tie_word_embeddings) return;
    this.lm_head = new Linear(text.hidden_size, text.vocab_size, { bias: false, init: normalInit(0.02) });
  }

  get decoder(): CausalDecoder {
    return this.model.language_model;
  }

  /** states [.. D] -> logits [.. V] */
  head(states: Tensor): Tensor {
    return this.lm_head?.forward(states) ?? linear(states, this.decoder.embed_tokens.weight);
  }

  /** Prompts of any lengths, padded on the left -> logits [B S V] */
  forward(prompts: readonly VisualPrompt[]): Tensor {
    return scope(() => {
      const { x, positions, real } = this.#open(prompts);
      const mask =
        real &&
        tensor(
          real.map((row) => [...row]),
          { dtype: "bool", device: x.device },
        );
      return this.head(this.decoder.forward(x, { positions, real: mask }));
    });
  }

  /** Continues prompts of any lengths; one new token a row a step, null for rows that have ended. */
  generate(prompts: readonly VisualPrompt[], options: GenerateOptions): IterableIterator<readonly (number | null)[]> {
    return generate(
      this,
      prompts.map(({ ids }) => ids),
      () => this.#open(prompts),
      options,
    );
  }

  #open(prompts: readonly VisualPrompt[]): Opening {
    const { ids, real, positions } = padLeft(
      prompts.map((prompt) => prompt.ids),
      0,
    );
    const visuals = prompts.flatMap((prompt) => prompt.visuals);
    return { x: this.#embed(ids, visuals), positions: [positions], real };
  }

  #embed(ids: readonly (readonly number[])[], visuals: readonly Visual[]): Tensor {
    if (visuals.length === 0) return this.decoder.embed(ids);
    const { image_token_id, video_token_id } = this.#config;
    const tokens = cat(visuals.map((visual) => this.#see(visual)));
    return this.decoder.embed(ids, { isMark: (id) => id === image_token_id || id === video_token_id, tokens });
  }

  /** The tokens of one image or video, as wide as the decoder. */
  #see({ patches, grid, merge, kept }: Visual): Tensor {
    const { vision_model, projector } = this.model;
    const tokens = projector.forward(vision_model.forward(patches, grid, merge));
    if (kept === undefined || kept.every(Boolean)) return tokens;
    const chosen = kept.flatMap((keep, i) => (keep ? [i] : []));
    return tokens.indexSelect(0, tensor(chosen, { dtype: "int64", device: tokens.device }));
  }
}
