/** The configuration of a Qwen2 or Llama checkpoint, in the words of its `config.json`. */

import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { DecoderConfig, readJson } from "../language.ts";

/** Qwen2.5 keeps Qwen2's architecture and its name; SmolLM2 is a Llama. */
export const readConfig = (folder: string): DecoderConfig =>
  readJson(folder, "config.json", DecoderConfig, "a Qwen2 or Llama model, for instance MODEL/text_encoder_2");

/** Tokens that a Waver prompt may have (waver.md: 512 for Qwen). */
export const MAX_TOKENS = 512;

/** The tokenizer of a model: in its own folder, or in MODEL/tokenizer_2 beside MODEL/text_encoder_2. */
export function tokenizerFolder(folder: string): string {
  const beside = join(dirname(folder), basename(folder).replace(/^text_encoder/, "tokenizer"));
  return [folder, beside].find((candidate) => existsSync(join(candidate, "tokenizer.json"))) ?? folder;
}
