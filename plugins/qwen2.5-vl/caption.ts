/** Captions from a Qwen2.5-VL checkpoint on this machine: frames as one video, a question, a greedy or sampled answer. */
import { basename } from "node:path";
import { type Device, type DType, Generator, patchify, Scope, type Tensor, tensor } from "../../native/index.ts";
import { BpeTokenizer } from "../bpe.ts";
import { ChatTemplate } from "../chat.ts";
import { spreadFrames } from "../frames.ts";
import { type Caption, type ClipFrames, type Context, type FrameBatch, WaverError } from "../index.ts";
import { checkRoom, choiceOf, type Generation, readGeneration, type WritingOptions, written } from "../language.ts";
import { loadModel } from "./checkpoint.ts";
import type { Qwen25VL } from "./model.ts";
import { type ProcessorConfig, readConfig, readProcessor, type VLConfig } from "./params.ts";

export interface CaptionOptions extends WritingOptions {
  readonly instruction: string;
  readonly maxFrames: number;
}

export class Captioner implements Disposable {
  readonly #name: string;
  readonly #config: VLConfig;
  readonly #processor: ProcessorConfig;
  readonly #model: Qwen25VL;
  readonly #tokenizer: BpeTokenizer;
  readonly #template: ChatTemplate;
  readonly #generation: Generation;

  constructor(folder: string, settings: { device: Device; dtype?: DType | undefined }) {
    this.#name = basename(folder);
    this.#config = readConfig(folder);
    this.#processor = readProcessor(folder);
    this.#tokenizer = BpeTokenizer.load(folder);
    this.#template = ChatTemplate.load(folder);
    this.#generation = readGeneration(folder);
    this.#model = loadModel(folder, settings);
  }

  async caption(input: ClipFrames, options: CaptionOptions, ctx: Context): Promise<Caption | null> {
    const { temporal_patch_size, merge_size } = this.#processor;
    const frames = await spreadFrames(input.frames, options.maxFrames);
    if (frames.length === 0) throw new WaverError("media_too_short", "a clip without frames cannot be captioned");
    using held = new Scope();
    const kind = frames.length === 1 ? "image" : "video";
    const { patches, grid } = held.run(() => patchify(pixelsOf(frames), this.#processor));
    const seconds = temporal_patch_size * secondsApart(frames);
    const text = this.#template.render([
      { role: "user", content: [{ type: kind }, { type: "text", text: options.instruction }] },
    ]);
    const ids = this.#expand(
      this.#tokenizer.encode(text, { around: false }),
      (grid[0] * grid[1] * grid[2]) / merge_size ** 2,
    );
    checkRoom(
      "the clip",
      ids.length,
      options.maxTokens,
      this.#config.text.max_position_embeddings,
      "lower maxFrames or maxTokens",
    );
    using generator = new Generator(options.seed);
    const steps = this.#model.generate([{ ids, visuals: [{ kind, patches, grid, seconds }] }], {
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

  /** The template writes one mark for the clip; the model wants one for each of its tokens. */
  #expand(ids: readonly number[], count: number): number[] {
    const { image_token_id, video_token_id } = this.#config;
    const marks = ids.filter((id) => id === image_token_id || id === video_token_id);
    if (marks.length !== 1)
      throw new WaverError("checkpoint_invalid", `the chat template writes ${marks.length} marks for one clip`, {
        hint: "use the chat template of a Qwen2.5-VL checkpoint, and an instruction without marks",
      });
    return ids.flatMap((id) => (id === marks[0] ? new Array<number>(count).fill(id) : [id]));
  }

  [Symbol.dispose](): void {
    this.#model.dispose();
  }
}

/** uint8 [F 3 H W] */
function pixelsOf(frames: readonly FrameBatch[]): Tensor {
  const { width, height } = frames[0] as FrameBatch;
  const data = new Uint8Array(frames.length * width * height * 3);
  for (const [i, frame] of frames.entries()) data.set(frame.data, i * width * height * 3);
  return tensor(data).view([frames.length, height, width, 3]).permute([0, 3, 1, 2]);
}

/** Seconds from one frame to the next; to the millisecond, for positions are cut to whole numbers. */
function secondsApart(frames: readonly FrameBatch[]): number {
  const times = frames.map(({ times }) => times[0] as number);
  if (times.length < 2) return 0;
  return Math.round((1000 * ((times.at(-1) as number) - (times[0] as number))) / (times.length - 1)) / 1000;
}
