/** Prompt rewriting by a chat model on this machine (Waver 4.6). */
import { createHash } from "node:crypto";
import { mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Device, type DType, Generator } from "../../native/index.ts";
import { BpeTokenizer } from "../bpe.ts";
import { ChatTemplate, type Message } from "../chat.ts";
import { type Context, type Prompt, z } from "../index.ts";
import { checkRoom, choiceOf, type Generation, readGeneration, type WritingOptions, written } from "../language.ts";
import { plainAnswer, rewritingTask } from "../rewriting.ts";
import { loadModel } from "./checkpoint.ts";
import type { CausalLM } from "./model.ts";
import { readConfig, tokenizerFolder } from "./params.ts";

export interface RewriteOptions extends WritingOptions {
  readonly instruction?: string | undefined;
  readonly cache?: string | undefined;
}

export class Rewriter implements Disposable {
  readonly #folder: string;
  readonly #model: CausalLM;
  readonly #tokenizer: BpeTokenizer;
  readonly #template: ChatTemplate;
  readonly #generation: Generation;
  readonly #maxPositions: number;

  constructor(folder: string, settings: { device: Device; dtype?: DType | undefined }) {
    const tokenizer = tokenizerFolder(folder);
    this.#folder = folder;
    this.#tokenizer = BpeTokenizer.load(tokenizer);
    this.#template = ChatTemplate.load(tokenizer);
    this.#generation = readGeneration(folder);
    this.#maxPositions = readConfig(folder).max_position_embeddings;
    this.#model = loadModel(folder, settings);
  }

  async rewrite(prompt: Prompt, options: RewriteOptions, ctx: Context): Promise<Prompt> {
    const { instruction } = options;
    const messages: readonly Message[] = rewritingTask(prompt.text, { seconds: prompt.seconds, instruction });
    const choice = choiceOf(options, this.#generation);
    const key = await this.#key([messages, choice, options.maxTokens, options.seed]);
    const cache = options.cache ?? join(ctx.workDir, "rewrites");
    const path = join(cache, `${key}.json`);
    const known = await readFile(path, "utf8").then(
      (text) => z.string().safeParse(JSON.parse(text)).data,
      () => undefined,
    );
    const text = known ?? (await this.#answer(messages, choice, options, ctx));
    if (known === undefined) await remember(cache, path, text);
    if (text === "") ctx.log("rewrite_empty", { prompt: prompt.text });
    const rewritten = text === "" ? prompt.text : text;
    ctx.log("prompt_rewritten", { from: prompt.text, to: rewritten, known: known !== undefined });
    return { ...prompt, text: rewritten };
  }

  async #answer(
    messages: readonly Message[],
    choice: ReturnType<typeof choiceOf>,
    { maxTokens, seed }: RewriteOptions,
    ctx: Context,
  ): Promise<string> {
    const ids = this.#tokenizer.encode(this.#template.render(messages), { around: false });
    checkRoom("the prompt", ids.length, maxTokens, this.#maxPositions, "shorten the prompt, or lower maxTokens");
    using generator = new Generator(seed);
    const steps = this.#model.generate([ids], { ...choice, generator, maxTokens, stop: this.#generation.stop });
    return plainAnswer(this.#tokenizer.decode(await written(steps, this.#generation, ctx)));
  }

  /** Of everything that the answer follows from; a checkpoint is known by its place and the time of its configuration. */
  async #key(parts: readonly unknown[]): Promise<string> {
    const { mtimeMs } = await stat(join(this.#folder, "config.json"));
    return createHash("sha256")
      .update(JSON.stringify([this.#folder, mtimeMs, ...parts]))
      .digest("hex");
  }

  [Symbol.dispose](): void {
    this.#model.dispose();
  }
}

async function remember(folder: string, path: string, text: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const temporary = `${path}.${crypto.randomUUID()}.tmp`;
  await writeFile(temporary, JSON.stringify(text));
  await rename(temporary, path);
}
