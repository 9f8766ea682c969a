/** A vision-language model on this machine that describes a clip: frames, a question, a greedy or sampled answer. */
import { basename } from "node:path";
import type { GenerateOptions } from "../native/index.ts";
import { BpeTokenizer } from "./bpe.ts";
import { ChatTemplate } from "./chat.ts";
import type { Context } from "./define.ts";
import { WaverError } from "./errors.ts";
import { spreadFrames } from "./frames.ts";
import { type CaptionOptions, checkRoom, choiceOf, type Generation, readGeneration, written } from "./language.ts";
import type { Caption, ClipFrames, FrameBatch } from "./types.ts";

/** How a question is put. */
export interface Words {
  readonly instruction: string;
  readonly tokenizer: BpeTokenizer;
  readonly template: ChatTemplate;
}

interface Shown<Visual> {
  /** The question, with the clip's tokens in their place. */
  readonly ids: readonly number[];
  readonly visual: Visual;
}

/** A network, and how it is shown a clip. */
export interface Sight<Visual> {
  readonly model: Disposable & {
    generate(
      prompts: readonly { readonly ids: readonly number[]; readonly visuals: readonly Visual[] }[],
      options: GenerateOptions,
    ): Iterable<readonly (number | null)[]>;
  };
  readonly maxPositions: number;
  /** frames: one or more of one frame each, `start` seconds after which their clip begins. In a scope. */
  show(frames: readonly FrameBatch[], start: number, words: Words): Shown<Visual>;
}

export class Captioner<Visual> implements Disposable {
  readonly #name: string;
  readonly #sight: Sight<Visual>;
  readonly #tokenizer: BpeTokenizer;
  readonly #template: ChatTemplate;
  readonly #generation: Generation;

  /** The tokenizer, the template and the habits of a checkpoint's folder are read before `open` loads its network. */
  constructor(folder: string, open: () => Sight<Visual>) {
    this.#name = basename(folder);
    this.#tokenizer = BpeTokenizer.load(folder);
    this.#template = ChatTemplate.load(folder);
    this.#generation = readGeneration(folder);
    this.#sight = open();
  }

  async caption(input: ClipFrames, options: CaptionOptions, ctx: Context): Promise<Caption | null> {
    const frames = await spreadFrames(input.frames, options.maxFrames);
    if (frames.length === 0) throw new WaverError("media_too_short", "a clip without frames cannot be captioned");
    const { Generator, Scope } = await import("../native/index.ts"); // this file is of the contract, which loads no tensors
    using held = new Scope();
    const words = { instruction: options.instruction, tokenizer: this.#tokenizer, template: this.#template };
    const { ids, visual } = held.run(() => this.#sight.show(frames, input.clip.start, words));
    const room = "lower maxFrames or maxTokens";
    checkRoom("the clip", ids.length, options.maxTokens, this.#sight.maxPositions, room);
    using generator = new Generator(options.seed);
    const steps = this.#sight.model.generate([{ ids, visuals: [visual] }], {
      ...choiceOf(options, this.#generation),
      generator,
      maxTokens: options.maxTokens,
      stop: this.#generation.stop,
    });
    const answer = this.#tokenizer
      .decode(await written(steps, this.#generation, ctx))
      .replace(/\s+/g, " ")
      .trim();
    return answer === "" ? null : { text: answer, by: this.#name };
  }

  [Symbol.dispose](): void {
    this.#sight.model[Symbol.dispose]();
  }
}

export const wrongMarks = (count: number, whose: string): WaverError =>
  new WaverError("checkpoint_invalid", `the chat template writes ${count} marks for one clip`, {
    hint: `use the chat template of a ${whose} checkpoint, and an instruction without marks`,
  });
