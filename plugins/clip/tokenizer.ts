/**
 * CLIP's byte-level BPE (Radford et al. 2021): lower case, single blanks, `</w>` at the end of a word, 77 tokens at most.
 * The work is the published library's (npm `tokenizers`); a folder from before `tokenizer.json` has `vocab.json` and
 * `merges.txt`, of which the same file is made here.
 */
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { Tokenizer as Published } from "tokenizers";
import { WaverError, z } from "../index.ts";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
/** How CLIP cuts text into words, after OpenAI's simple_tokenizer.py. */
const WORDS = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";

export class ClipTokenizer {
  readonly end: number;
  readonly #start: number;
  readonly #published: Published;

  private constructor(published: Published, path: string) {
    const id = (token: string): number => {
      const found = published.tokenToId(token);
      if (found === null)
        throw new WaverError("checkpoint_invalid", `${path} is no tokenizer of CLIP: it does not know ${token}`);
      return found;
    };
    this.#published = published;
    this.#start = id(START);
    this.end = id(END);
  }

  /** The tokenizer in a model's folder, or in MODEL/tokenizer beside MODEL/text_encoder. */
  static load(folder: string): ClipTokenizer {
    for (const candidate of [folder, join(dirname(folder), "tokenizer")]) {
      const whole = join(candidate, "tokenizer.json");
      if (existsSync(whole)) return new ClipTokenizer(published(readFileSync(whole, "utf8"), whole), whole);
      const [vocab, merges] = [join(candidate, "vocab.json"), join(candidate, "merges.txt")];
      if (existsSync(vocab) && existsSync(merges))
        return new ClipTokenizer(published(assembled(vocab, merges), vocab), vocab);
    }
    throw new WaverError("checkpoint_missing", `${folder} holds no tokenizer.json, nor vocab.json and merges.txt`);
  }

  /** Ids with start and end token, at most `maxTokens` of them: long texts lose their tail, not their end token. */
  async encode(text: string, maxTokens = 77): Promise<number[]> {
    const encoded = await this.#published.encode(text, null, { addSpecialTokens: false });
    return [this.#start, ...encoded.getIds().slice(0, maxTokens - 2), this.end];
  }

  /** Rows of one length, padded with the end token: text pools at its first, so nothing behind it counts. */
  async encodeBatch(texts: readonly string[], maxTokens?: number): Promise<{ ids: number[][]; mask: number[][] }> {
    const rows = await Promise.all(texts.map((text) => this.encode(text, maxTokens)));
    const length = Math.max(0, ...rows.map((row) => row.length));
    const fill = (row: readonly number[], by: number): number[] => new Array<number>(length - row.length).fill(by);
    return {
      ids: rows.map((row) => [...row, ...fill(row, this.end)]),
      mask: rows.map((row) => [...row.map(() => 1), ...fill(row, 0)]),
    };
  }
}

/** The library is a native module: where it does not load, that is what the user hears, not an import's stack. */
function published(text: string, path: string): Published {
  let library: typeof import("tokenizers");
  try {
    library = createRequire(import.meta.url)("tokenizers") as typeof import("tokenizers");
  } catch (cause) {
    throw new WaverError(
      "tool_missing",
      `the package tokenizers does not load on ${process.platform} ${process.arch}`,
      {
        cause,
        hint: "run waver doctor; the package has builds for Linux, macOS, Windows and Android",
      },
    );
  }
  try {
    return library.Tokenizer.fromString(text);
  } catch (cause) {
    throw new WaverError("checkpoint_invalid", `${path} is not what the tokenizers library reads: ${String(cause)}`, {
      cause,
    });
  }
}

/** What Transformers makes of the two old files (its converter of CLIP's tokenizer). */
function assembled(vocabPath: string, mergesPath: string): string {
  const parsed = z.record(z.string(), z.int()).safeParse(JSON.parse(readFileSync(vocabPath, "utf8")));
  if (!parsed.success)
    throw new WaverError("checkpoint_invalid", `${vocabPath} is no vocabulary: ${z.prettifyError(parsed.error)}`);
  const vocab = parsed.data;
  const merges = readFileSync(mergesPath, "utf8")
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#version"))
    .map((line) => line.trimEnd().split(" "));
  const special = [START, END]
    .filter((content) => content in vocab)
    .map((content) => ({
      id: vocab[content],
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    }));
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special,
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "NFC" },
        { type: "Replace", pattern: { Regex: "\\s+" }, content: " " },
        { type: "Lowercase" },
      ],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: WORDS }, behavior: "Removed", invert: true },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: END,
      continuing_subword_prefix: "",
      end_of_word_suffix: "</w>",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  });
}
