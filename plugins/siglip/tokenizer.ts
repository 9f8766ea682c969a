/**
 * Texts to ids as Transformers' SiglipTokenizer gives them: lower case, no ASCII punctuation, blanks squeezed (big_vision's
 * canonicalize), SentencePiece, the end token, and more of it up to the length at which the text tower was trained.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { WaverError } from "../index.ts";
import { readSentencePiece, tokenizerJson } from "../sentencepiece.ts";
import { UnigramTokenizer } from "../unigram.ts";

const MODEL = "spiece.model";
/** What SentencePiece writes for a blank. */
const BLANK = "\u2581";
/** Python's string.punctuation. */
const PUNCTUATION = /[!-/:-@[-`{-~]/g;
/** Published SigLIPs read 64 tokens. */
const MAX_TOKENS = 64;
const [END, UNKNOWN] = ["</s>", "<unk>"];

export class SiglipTokenizer {
  readonly #pieces: UnigramTokenizer;
  readonly #end: number;
  readonly #unknown: number;

  private constructor(pieces: UnigramTokenizer, end: number, unknown: number) {
    this.#pieces = pieces;
    this.#end = end;
    this.#unknown = unknown;
  }

  /** A folder with a spiece.model. */
  static load(folder: string): SiglipTokenizer {
    const path = join(folder, MODEL);
    if (!existsSync(path))
      throw new WaverError("checkpoint_missing", `${folder} holds no ${MODEL}`, {
        hint: "fetch the tokenizer of this SigLIP with its weights",
      });
    const model = readSentencePiece(path);
    const end = model.pieces.findIndex(({ piece }) => piece === END);
    if (end < 0) throw new WaverError("checkpoint_invalid", `${path} has no piece ${END}`);
    return new SiglipTokenizer(UnigramTokenizer.parse(tokenizerJson(model), path), end, model.unknown);
  }

  /** Ids of one text, padded with the end token to `length`. */
  encode(text: string, length = MAX_TOKENS): number[] {
    const ids: number[] = [];
    // `</s>` and `<unk>` written in a text are those tokens, with the blanks around them.
    const parts = `${BLANK}${text.replaceAll(BLANK, " ")}`.split(/\s*(<\/s>|<unk>)\s*/);
    for (const part of parts) {
      if (part === END) ids.push(this.#end);
      else if (part === UNKNOWN) ids.push(this.#unknown);
      else ids.push(...this.#pieces.encode(canonical(part)));
    }
    const cut = ids.slice(0, length - 1);
    if (cut.at(-1) !== this.#end) cut.push(this.#end);
    return [...cut, ...new Array<number>(length - cut.length).fill(this.#end)];
  }
}

const canonical = (text: string): string => text.toLowerCase().replace(PUNCTUATION, "").replace(/\s+/g, " ").trim();
