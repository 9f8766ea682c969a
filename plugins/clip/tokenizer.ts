/**
 * CLIP's byte-level BPE (Radford et al. 2021): lower case, single blanks, `</w>` at the end of a word, 77 tokens at most.
 * A folder from before `tokenizer.json` has `vocab.json` and `merges.txt`, of which the same file is made here.
 */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { BpeTokenizer } from "../bpe.ts";
import { WaverError, z } from "../index.ts";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
/** How CLIP cuts text into words, after OpenAI's simple_tokenizer.py. */
const WORDS = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";

export class ClipTokenizer {
  readonly bpe: BpeTokenizer;
  readonly start: number;
  readonly end: number;

  private constructor(bpe: BpeTokenizer) {
    this.bpe = bpe;
    this.start = bpe.id(START);
    this.end = bpe.id(END);
  }

  /** The tokenizer in a model's folder, or in MODEL/tokenizer beside MODEL/text_encoder. */
  static load(folder: string): ClipTokenizer {
    for (const candidate of [folder, join(dirname(folder), "tokenizer")]) {
      if (existsSync(join(candidate, "tokenizer.json"))) return new ClipTokenizer(BpeTokenizer.load(candidate));
      const [vocab, merges] = [join(candidate, "vocab.json"), join(candidate, "merges.txt")];
      if (existsSync(vocab) && existsSync(merges))
        return new ClipTokenizer(BpeTokenizer.parse(assembled(vocab, merges), vocab));
    }
    throw new WaverError("checkpoint_missing", `${folder} holds no tokenizer.json, nor vocab.json and merges.txt`);
  }

  /** Ids with start and end token, at most `maxTokens` of them: long texts lose their tail, not their end token. */
  encode(text: string, maxTokens = 77): number[] {
    return [this.start, ...this.bpe.encode(text, { around: false }).slice(0, maxTokens - 2), this.end];
  }

  /** Rows of one length, padded with the end token: text pools at its first, so nothing behind it counts. */
  encodeBatch(texts: readonly string[], maxTokens?: number): { ids: number[][]; mask: number[][] } {
    const rows = texts.map((text) => this.encode(text, maxTokens));
    const length = Math.max(0, ...rows.map((row) => row.length));
    const fill = (row: readonly number[], by: number): number[] => new Array<number>(length - row.length).fill(by);
    return {
      ids: rows.map((row) => [...row, ...fill(row, this.end)]),
      mask: rows.map((row) => [...row.map(() => 1), ...fill(row, 0)]),
    };
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
