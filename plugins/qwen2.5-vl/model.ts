/**
 * Qwen2_5_VLForConditionalGeneration (arXiv 2502.13923): images and videos through the vision tower, their tokens in the place of
 * marks in the text, a Qwen2 decoder whose tokens have three positions. Children are named by the checkpoint's keys.
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
  type PatchGrid,
  type Positions,
  padLeft,
  scope,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import { WaverError } from "../index.ts";
import type { VLConfig } from "./params.ts";
import { VisionTower } from "./vision.ts";

export type Tap = (name: string, value: Tensor) => void;

/** An image or a video, cut into patches. */
export interface Visual {
  readonly kind: "image" | "video";
  /** [N, pixels of a patch] */
  readonly patches: Tensor;
  readonly grid: PatchGrid;
  /** Seconds that one temporal patch of a video lasts; 1 when not said. */
  readonly seconds?: number | undefined;
}

/** Token ids, with as many marks for each image and video as it has tokens, and these in the order of their marks. */
export interface VisualPrompt {
  readonly ids: readonly number[];
  readonly visuals: readonly Visual[];
}

export class Qwen25VL extends Module implements LanguageModel {
  readonly visual: VisionTower;
  readonly model: CausalDecoder;
  /** Absent where the embedding serves as the head as well. */
  readonly lm_head: Linear | undefined;
  readonly #config: VLConfig;

  constructor(config: VLConfig) {
    super();
    this.#config = config;
    this.visual = new VisionTower(config.vision);
    this.model = new CausalDecoder(config.text);
    if (config.text.tie_word_embeddings) return;
    this.lm_head = new Linear(config.text.hidden_size, config.text.vocab_size, { bias: false, init: normalInit(0.02) });
  }

  get decoder(): CausalDecoder {
    return this.model;
  }

  /** states [.. D] -> logits [.. V] */
  head(states: Tensor): Tensor {
    return this.lm_head?.forward(states) ?? linear(states, this.model.embed_tokens.weight);
  }

  /** Prompts of any lengths, padded on the left -> logits [B S V] */
  forward(prompts: readonly VisualPrompt[], tap?: Tap): Tensor {
    return scope(() => {
      const { x, positions, real } = this.#open(prompts);
      const mask =
        real &&
        tensor(
          real.map((row) => [...row]),
          { dtype: "bool", device: x.device },
        );
      return this.head(this.model.forward(x, { positions, real: mask, tap }));
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

  #open(prompts: readonly VisualPrompt[]) {
    const { ids, real } = padLeft(
      prompts.map((prompt) => prompt.ids),
      0,
    );
    const placed = prompts.map((prompt) => visualPositions(prompt, this.#config));
    const positions = [0, 1, 2].map(
      (axis) =>
        padLeft(
          placed.map((axes) => axes[axis] as number[]),
          0,
        ).ids,
    ) as Positions;
    return { x: this.#embed(ids, prompts), positions, real };
  }

  /** Embedded text, with the tower's tokens where the marks are. */
  #embed(ids: readonly (readonly number[])[], prompts: readonly VisualPrompt[]): Tensor {
    const { image_token_id, video_token_id } = this.#config;
    const visuals = prompts.flatMap((prompt) => prompt.visuals);
    if (visuals.length === 0) return this.model.embed(ids);
    const tokens = cat(visuals.map(({ patches, grid }) => this.visual.forward(patches, grid)));
    return this.model.embed(ids, { isMark: (id) => id === image_token_id || id === video_token_id, tokens });
  }
}

/**
 * Positions in time, height and width (Qwen2-VL 2.1, Qwen2.5-VL 2.1.2), [3][S]: text counts all three up together; inside an
 * image or video rows and columns count units, and time counts `tokens_per_second`. Text goes on after the longer side of
 * the frame, as transformers 5 has it, so a long video's time may run past the text behind it.
 */
export function visualPositions(
  { ids, visuals }: VisualPrompt,
  { image_token_id, video_token_id, vision: { spatial_merge_size: merge, tokens_per_second } }: VLConfig,
): [number[], number[], number[]] {
  const axes: [number[], number[], number[]] = [[], [], []];
  const waiting = [...visuals];
  let start = 0;
  const place = (t: number, y: number, x: number): void => {
    axes[0].push(start + t);
    axes[1].push(start + y);
    axes[2].push(start + x);
  };
  for (let at = 0; at < ids.length; ) {
    const kind = ids[at] === image_token_id ? "image" : ids[at] === video_token_id ? "video" : null;
    if (kind === null) {
      place(0, 0, 0);
      start++;
      at++;
      continue;
    }
    const visual = waiting.shift();
    if (visual?.kind !== kind)
      throw new WaverError(
        "invalid_input",
        `the text has a mark for ${kind === "image" ? "an image" : "a video"} that was not given`,
      );
    const [T, Y, X] = [visual.grid[0], visual.grid[1] / merge, visual.grid[2] / merge];
    const step = kind === "image" ? 1 : (visual.seconds ?? 1) * tokens_per_second;
    for (let t = 0; t < T; t++)
      for (let y = 0; y < Y; y++) for (let x = 0; x < X; x++) place(Math.floor(t * step), y, x);
    start += Math.max(Y, X);
    at += T * Y * X;
  }
  if (waiting.length > 0)
    throw new WaverError("invalid_input", `the text has no mark for ${waiting.length} of its images and videos`);
  return axes;
}
