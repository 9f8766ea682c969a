/**
 * How well generated clips show what they were asked for, by CLIP:
 * - textSimilarity   cosine of the prompt with each frame, mean
 * - clipScore        2.5 max(cosine, 0), mean over frames (Hessel et al. 2021, arXiv 2104.08718)
 * - frameConsistency cosine of neighbouring frames, mean (background consistency in VBench, arXiv 2311.17982)
 */
import {
  cat,
  type ImageSettings,
  inferenceMode,
  type Placement,
  packedImages,
  preprocessImages,
  scope,
  type Tensor,
  tensor,
  unit,
} from "../../native/index.ts";
import {
  type Context,
  type EvalSet,
  type Evaluation,
  type FrameBatch,
  type FrameView,
  Scores,
  WaverError,
} from "../index.ts";
import { imageSettings, loadClip } from "./checkpoint.ts";
import type { Clip } from "./model.ts";
import { ClipTokenizer } from "./tokenizer.ts";

/** As the embedder sees clips. */
const VIEW: FrameView = { width: 224, height: 224, fit: "cover", rate: 4, format: "rgb24", batch: 8 };
/** The paper's weight, which spreads scores over 0 to 1. */
const WEIGHT = 2.5;

export class ClipJudge implements Disposable {
  readonly #model: Clip;
  readonly #tokenizer: ClipTokenizer;
  readonly #settings: ImageSettings;
  readonly #maxTokens: number;
  readonly #device: string;

  private constructor(
    model: Clip,
    tokenizer: ClipTokenizer,
    settings: ImageSettings,
    maxTokens: number,
    device: string,
  ) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#settings = settings;
    this.#maxTokens = maxTokens;
    this.#device = device;
  }

  static load(folder: string, settings: Placement): ClipJudge {
    const tokenizer = ClipTokenizer.load(folder);
    const { model, config } = loadClip(folder, settings);
    const { max_position_embeddings } = config.text;
    return new ClipJudge(
      model,
      tokenizer,
      imageSettings(folder, config.vision),
      max_position_embeddings,
      settings.device,
    );
  }

  /** Embeddings [N E] of all frames and of a prompt [1 E] -> measures; the prompt's are absent when it says nothing. */
  async judge(prompt: string, frames: AsyncIterable<FrameBatch>, ctx: Pick<Context, "breathe">): Promise<Scores> {
    const parts: Tensor[] = [];
    try {
      for await (const batch of frames) {
        parts.push(inferenceMode(() => this.#images(batch)));
        await ctx.breathe();
      }
      if (parts.length === 0) throw new WaverError("media_empty", "a clip without frames cannot be judged");
      return inferenceMode(() => scope(() => this.#measure(prompt, cat(parts))));
    } finally {
      for (const part of parts) part.dispose();
    }
  }

  #images(batch: FrameBatch): Tensor {
    return scope(() => {
      const pixels = preprocessImages(packedImages(batch), this.#settings).to({ device: this.#device });
      return unit(this.#model.embedImages(pixels).to("float32"));
    });
  }

  #text(prompt: string): Tensor {
    const ids = tensor([this.#tokenizer.encode(prompt, this.#maxTokens)], { dtype: "int64", device: this.#device });
    return unit(this.#model.embedTexts(ids).to("float32"));
  }

  #measure(prompt: string, frames: Tensor): Scores {
    const N = frames.size(0);
    const neighbours =
      N === 1
        ? undefined
        : frames
            .narrow(0, 0, N - 1)
            .mul(frames.narrow(0, 1, N - 1))
            .sum(1);
    const scores: Record<string, number> =
      neighbours === undefined ? {} : { frameConsistency: neighbours.mean().item() };
    if (prompt.trim() === "") return scores;
    const cosines = frames.matmul(this.#text(prompt).transpose(0, 1));
    scores["textSimilarity"] = cosines.mean().item();
    scores["clipScore"] = cosines.clamp(0).mul(WEIGHT).mean().item();
    return scores;
  }

  [Symbol.dispose](): void {
    this.#model.dispose();
  }
}

export async function judgePrompts({ items }: EvalSet, judge: ClipJudge, ctx: Context): Promise<Evaluation> {
  if (items.length === 0) throw new WaverError("invalid_input", "there is nothing to judge: the set has no items");
  const judged: Record<string, Scores> = {};
  for (const [i, { id, video, prompt }] of items.entries()) {
    judged[id] = await ctx.unit(`clip/${id}`, Scores, () => judge.judge(prompt, framesOf(video, ctx), ctx));
    ctx.progress(i + 1, items.length, "generated clips");
    await ctx.breathe();
  }
  const summary: Record<string, number> = { numItems: items.length };
  for (const measure of new Set(Object.values(judged).flatMap(Object.keys))) {
    const values = Object.values(judged).flatMap((scores) => scores[measure] ?? []);
    summary[measure] = values.reduce((sum, value) => sum + value, 0) / values.length;
  }
  return { summary, items: judged, notes: {} };
}

async function* framesOf(path: string, { media, signal }: Context): AsyncGenerator<FrameBatch> {
  if (/\.(png|jpe?g|webp)$/i.test(path)) yield await media.image(path, VIEW);
  else yield* media.frames(path, VIEW, { signal });
}
