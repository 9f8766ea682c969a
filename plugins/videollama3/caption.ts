/** Captions from a VideoLLaMA3 checkpoint on this machine: a clip's frames with their times, a question, an answer. */
import { basename } from "node:path";
import { type Device, type DType, Generator, Scope, tensor } from "../../native/index.ts";
import { BpeTokenizer } from "../bpe.ts";
import { ChatTemplate } from "../chat.ts";
import { spreadFrames } from "../frames.ts";
import { type Caption, type ClipFrames, type Context, WaverError } from "../index.ts";
import { checkRoom, choiceOf, type Generation, readGeneration, type WritingOptions, written } from "../language.ts";
import { loadModel } from "./checkpoint.ts";
import type { VideoLlama3 } from "./model.ts";
import { readConfig, readVideoProcessor, type VideoLlama3Config, type VideoProcessorConfig } from "./params.ts";
import { markedFrames, prepareVideo } from "./video.ts";

export interface CaptionOptions extends WritingOptions {
  readonly instruction: string;
  readonly maxFrames: number;
}

export class Captioner implements Disposable {
  readonly #name: string;
  readonly #config: VideoLlama3Config;
  readonly #processor: VideoProcessorConfig;
  readonly #model: VideoLlama3;
  readonly #tokenizer: BpeTokenizer;
  readonly #template: ChatTemplate;
  readonly #generation: Generation;

  constructor(folder: string, settings: { device: Device; dtype?: DType | undefined }) {
    this.#name = basename(folder);
    this.#config = readConfig(folder);
    this.#processor = readVideoProcessor(folder);
    this.#tokenizer = BpeTokenizer.load(folder);
    this.#template = ChatTemplate.load(folder);
    this.#generation = readGeneration(folder);
    this.#model = loadModel(folder, settings);
  }

  async caption(input: ClipFrames, options: CaptionOptions, ctx: Context): Promise<Caption | null> {
    const frames = await spreadFrames(input.frames, options.maxFrames);
    const [first] = frames;
    if (first === undefined) throw new WaverError("media_too_short", "a clip without frames cannot be captioned");
    const bytes = Buffer.concat(frames.map(({ data }) => data));
    using held = new Scope();
    const { patches, grid, kept } = held.run(() =>
      prepareVideo(
        tensor(new Uint8Array(bytes)).view([frames.length, first.height, first.width, 3]).permute([0, 3, 1, 2]),
        this.#processor,
      ),
    );
    const times = frames.map(({ times }) => (times[0] as number) - input.clip.start);
    const ids = this.#tokens(options.instruction, times, kept);
    checkRoom(
      "the clip",
      ids.length,
      options.maxTokens,
      this.#config.text.max_position_embeddings,
      "lower maxFrames or maxTokens",
    );
    using generator = new Generator(options.seed);
    const visual = { kind: "video", patches, grid, merge: this.#processor.merge_size, kept } as const;
    const steps = this.#model.generate([{ ids, visuals: [visual] }], {
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

  #tokens(instruction: string, times: readonly number[], kept: readonly boolean[]): number[] {
    const text = this.#template.render([
      { role: "user", content: [{ type: "video" }, { type: "text", text: instruction }] },
    ]);
    const mark = this.#tokenizer.decode([this.#config.video_token_id], { special: true });
    const parts = text.split(mark);
    if (parts.length !== 2)
      throw new WaverError("checkpoint_invalid", `the chat template writes ${parts.length - 1} marks for one clip`, {
        hint: "use the chat template of a VideoLLaMA3 checkpoint, and an instruction without marks",
      });
    return this.#tokenizer.encode(parts.join(markedFrames(mark, times, kept)), { around: false });
  }

  [Symbol.dispose](): void {
    this.#model.dispose();
  }
}
