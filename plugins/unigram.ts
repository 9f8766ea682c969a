/**
 * A unigram tokenizer (Kudo 2018, arXiv 1804.10959) from a `tokenizer.json`.
 *
 * Normaliser and pre-tokenizer are the published ones (npm `tokenizers`, the library of Hugging Face in Rust). The search for the
 * best segmentation is here: the package offers it asynchronously only, and a training step must tokenize inside its scope.
 * `t5/t5.test.ts` holds the two to each other.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { WaverError } from "./errors.ts";
import { AddedTokens, LiteralTokens, type Published, published, wordsOf } from "./tokenizers.ts";

const TokenizerFile = z.object({
  added_tokens: AddedTokens,
  post_processor: z.unknown(),
  model: z.object({
    type: z.literal("Unigram", { error: "the tokenizer is no unigram model" }),
    unk_id: z.int().nullable(),
    vocab: z.array(z.tuple([z.string(), z.number()])),
    byte_fallback: z.boolean().default(false),
  }),
});

/** What an unknown character costs beyond the rarest piece, in log probability (sentencepiece). */
const UNKNOWN_PENALTY = 10;

interface Piece {
  readonly id: number;
  readonly score: number;
}

export class UnigramTokenizer {
  readonly #published: Published;
  readonly #pieces = new Map<string, Piece>();
  readonly #literal: LiteralTokens;
  readonly #unknown: number;
  readonly #unknownScore: number;
  readonly #bytes: readonly number[] | undefined;
  /** Characters of the longest piece. */
  readonly #longest: number;

  /** A folder with a tokenizer.json. */
  static load(folder: string): UnigramTokenizer {
    const path = join(folder, "tokenizer.json");
    if (!existsSync(path)) throw new WaverError("checkpoint_missing", `${folder} holds no tokenizer.json`);
    return UnigramTokenizer.parse(readFileSync(path, "utf8"), path);
  }

  /** The text of a tokenizer.json; `path` says where it came from. */
  static parse(text: string, path: string): UnigramTokenizer {
    const parsed = TokenizerFile.safeParse(JSON.parse(text));
    if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
    return new UnigramTokenizer(text, parsed.data);
  }

  private constructor(text: string, { added_tokens, model }: z.output<typeof TokenizerFile>) {
    this.#published = published(text);
    let longest = 1;
    let least = Number.POSITIVE_INFINITY;
    for (const [id, [piece, score]] of model.vocab.entries()) {
      this.#pieces.set(piece, { id, score });
      longest = Math.max(longest, [...piece].length);
      least = Math.min(least, score);
    }
    this.#longest = longest;
    this.#unknown = model.unk_id ?? 0;
    this.#unknownScore = least - UNKNOWN_PENALTY;
    const bytes = Array.from(
      { length: 256 },
      (_, byte) => this.#pieces.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)?.id,
    );
    this.#bytes = model.byte_fallback && bytes.every((id) => id !== undefined) ? (bytes as number[]) : undefined;
    this.#literal = new LiteralTokens(added_tokens);
  }

  get vocabularySize(): number {
    return this.#published.getVocabSize(true);
  }

  /** The published implementation, for comparison and for decoding. */
  get published(): Published {
    return this.#published;
  }

  /** Ids of a text, no end token. Tokens of the vocabulary's own (`</s>`, `<extra_id_0>`) are taken literally. */
  encode(text: string): number[] {
    return this.#literal.encode(text, (part) => this.#encodePlain(part));
  }

  #encodePlain(text: string): number[] {
    if (text === "") return [];
    return wordsOf(this.#published, text).flatMap((word) => this.#segment(word));
  }

  /** The segmentation of highest total score (Viterbi); neighbouring unknown characters count as one piece. */
  #segment(word: string): number[] {
    const characters = [...word];
    const n = characters.length;
    const best = new Float64Array(n + 1).fill(Number.NEGATIVE_INFINITY);
    const start = new Int32Array(n + 1).fill(-1);
    best[0] = 0;
    for (let from = 0; from < n; from++) {
      const reached = best[from] as number;
      let known = false;
      let piece = "";
      for (let to = from + 1; to <= Math.min(n, from + this.#longest); to++) {
        piece += characters[to - 1];
        const found = this.#pieces.get(piece);
        if (found === undefined) continue;
        if (to === from + 1) known = true;
        if (start[to] === -1 || reached + found.score > (best[to] as number)) {
          best[to] = reached + found.score;
          start[to] = from;
        }
      }
      if (!known && (start[from + 1] === -1 || reached + this.#unknownScore > (best[from + 1] as number))) {
        best[from + 1] = reached + this.#unknownScore;
        start[from + 1] = from;
      }
    }
    const pieces: string[] = [];
    for (let to = n; to > 0; to = start[to] as number)
      pieces.unshift(characters.slice(start[to] as number, to).join(""));
    const ids: number[] = [];
    let unknown = "";
    for (const piece of pieces) {
      const found = this.#pieces.get(piece);
      if (found === undefined) {
        unknown += piece;
        continue;
      }
      ids.push(...this.#unknownIds(unknown), found.id);
      unknown = "";
    }
    ids.push(...this.#unknownIds(unknown));
    return ids;
  }

  #unknownIds(text: string): number[] {
    if (text === "") return [];
    if (this.#bytes === undefined) return [this.#unknown];
    return Array.from(new TextEncoder().encode(text), (byte) => (this.#bytes as readonly number[])[byte] as number);
  }
}
