/** Chat templates: how a conversation is written for a model. The template comes with the checkpoint, in Jinja. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import { z } from "zod";
import { WaverError } from "./errors.ts";

/** What a message is made of, for models that see: the template writes a mark for every image and video. */
export type Part =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "image" }
  | { readonly type: "video" };

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string | readonly Part[];
}

const Named = z.array(z.object({ name: z.string(), template: z.string() }));
/** A token of the tokenizer's configuration: its text, or an object that has it. */
const Token = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)])
  .nullish();
const TokenizerConfig = z.looseObject({
  chat_template: z.union([z.string(), Named]).nullish(),
  bos_token: Token,
  eos_token: Token,
  pad_token: Token,
  unk_token: Token,
});

export class ChatTemplate {
  readonly #template: Template;
  readonly #tokens: Readonly<Record<string, string>>;

  private constructor(source: string, tokens: Record<string, string>) {
    try {
      this.#template = new Template(source);
    } catch (cause) {
      throw new WaverError("checkpoint_invalid", `the chat template cannot be read: ${String(cause)}`, { cause });
    }
    this.#tokens = tokens;
  }

  /** From `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`, as transformers looks for it. */
  static load(folder: string): ChatTemplate {
    const read = (name: string): unknown => {
      const path = join(folder, name);
      return existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : {};
    };
    const { chat_template, ...config } = TokenizerConfig.parse(read("tokenizer_config.json"));
    const jinja = join(folder, "chat_template.jinja");
    const beside = TokenizerConfig.parse(read("chat_template.json")).chat_template ?? chat_template;
    const source = existsSync(jinja)
      ? readFileSync(jinja, "utf8")
      : Array.isArray(beside)
        ? beside.find(({ name }) => name === "default")?.template
        : beside;
    if (source == null)
      throw new WaverError("checkpoint_missing", `${folder} holds no chat template`, {
        hint: "use a checkpoint made for conversation (Instruct), with its tokenizer_config.json or chat_template.jinja",
      });
    const { bos_token, eos_token, pad_token, unk_token } = config;
    const tokens = Object.entries({ bos_token, eos_token, pad_token, unk_token }).filter(([, token]) => token != null);
    return new ChatTemplate(source, Object.fromEntries(tokens as [string, string][]));
  }

  /** The conversation as one text, ready to be answered unless `answer` is false. */
  render(messages: readonly Message[], { answer = true }: { answer?: boolean } = {}): string {
    try {
      return this.#template.render({ messages, add_generation_prompt: answer, ...this.#tokens });
    } catch (cause) {
      throw new WaverError(
        "checkpoint_invalid",
        `the checkpoint's chat template refuses this conversation: ${String(cause)}`,
        {
          cause,
        },
      );
    }
  }
}
