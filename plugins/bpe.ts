/**
 * A BPE tokenizer (Sennrich et al. 2016; byte level as in GPT-2) from a `tokenizer.json`.
 *
 * Normaliser, pre-tokenizer and decoder are the published ones (npm `tokenizers`, the library of Hugging Face in Rust). The merging
 * is here: the package offers it asynchronously only, and a text is tokenized inside synchronous scopes. `bpe.test.ts` holds
 * the two to each other.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { WaverError } from "./errors.ts";
import { AddedTokens, LiteralTokens, type Published, published, wordsOf } from "./tokenizers.ts";

const Special = z.object({ SpecialToken: z.object({ id: z.string() }) });
const Processor = z.looseObject({
  type: z.string(),
  single: z.array(z.union([Special, z.object({ Sequence: z.unknown() })])).optional(),
  processors: z.array(z.looseObject({ type: z.string() })).optional(),
});

const TokenizerFile = z.object({
  added_tokens: AddedTokens,
  post_processor: Processor.nullish(),
  model: z.object({
    type: z.literal("BPE", { error: "the tokenizer is no BPE model" }),
    vocab: z.record(z.string(), z.int()),
    /** Pairs, or "a b" in older files; the order is the rank. */
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])),
    unk_token: z.string().nullish(),
    continuing_subword_prefix: z.literal("", { error: "a continuing_subword_prefix is not supported" }).nullish(),
    end_of_word_suffix: z.string().nullish(),
    byte_fallback: z.literal(false, { error: "byte_fallback is not supported in BPE" }).optional(),
    ignore_merges: z.boolean().default(false),
  }),
});

/** Pieces whose ids are remembered; the longest that is worth it. */
const CACHE = { pieces: 10_000, length: 64 } as const;
/** Above every vocabulary: a pair of ids, and a rank with a place, are each one number. */
const BASE = 2 ** 26;

export class BpeTokenizer {
  readonly #published: Published;
  readonly #vocabulary: ReadonlyMap<string, number>;
  /** Two ids -> rank and id of what they become. */
  readonly #merges = new Map<number, { rank: number; id: number }>();
  readonly #literal: LiteralTokens;
  readonly #special: ReadonlySet<number>;
  readonly #suffix: string;
  readonly #unknown: number | undefined;
  readonly #ignoreMerges: boolean;
  readonly #around: { readonly before: readonly number[]; readonly after: readonly number[] };
  readonly #cache = new Map<string, readonly number[]>();

  /** A folder with a tokenizer.json. */
  static load(folder: string): BpeTokenizer {
    const path = join(folder, "tokenizer.json");
    if (!existsSync(path))
      throw new WaverError("checkpoint_missing", `${folder} holds no tokenizer.json`, {
        hint: "`tokenizer` names a folder with the tokenizer's fast form; vocab.json and merges.txt alone are not read",
      });
    return BpeTokenizer.parse(readFileSync(path, "utf8"), path);
  }

  /** The text of a tokenizer.json; `path` says where it came from. */
  static parse(text: string, path: string): BpeTokenizer {
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch (cause) {
      throw new WaverError("checkpoint_invalid", `${path} is not JSON`, { cause });
    }
    const parsed = TokenizerFile.safeParse(json);
    if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
    return new BpeTokenizer(text, parsed.data);
  }

  private constructor(text: string, { added_tokens, model, post_processor }: z.output<typeof TokenizerFile>) {
    this.#published = published(text);
    this.#vocabulary = new Map(Object.entries(model.vocab));
    this.#suffix = model.end_of_word_suffix ?? "";
    this.#ignoreMerges = model.ignore_merges;
    for (const [rank, merge] of model.merges.entries()) {
      const [a, b] = typeof merge === "string" ? (merge.split(" ", 2) as [string, string]) : merge;
      const ids = [a, b, a + b].map((piece) => this.#vocabulary.get(piece));
      if (ids.includes(undefined))
        throw new WaverError("checkpoint_invalid", `tokenizer.json: the merge of ${a} and ${b} leaves its vocabulary`);
      const [left, right, id] = ids as [number, number, number];
      this.#merges.set(left * BASE + right, { rank, id });
    }
    this.#literal = new LiteralTokens(added_tokens);
    this.#special = new Set(added_tokens.filter(({ special }) => special).map(({ id }) => id));
    this.#unknown = model.unk_token == null ? undefined : this.id(model.unk_token);
    this.#around = this.#template(post_processor ?? undefined);
  }

  /** Tokens that the post-processor puts around a text, as a Llama tokenizer does. */
  #template(processor: z.output<typeof Processor> | undefined): { before: number[]; after: number[] } {
    const parts = [processor, ...(processor?.processors ?? [])].map((each) => Processor.safeParse(each).data?.single);
    const single = parts.find((part) => part !== undefined) ?? [];
    const at = single.findIndex((part) => "Sequence" in part);
    const ids = (some: typeof single): number[] =>
      some.flatMap((part) => ("SpecialToken" in part ? [this.id(part.SpecialToken.id)] : []));
    return { before: ids(single.slice(0, Math.max(0, at))), after: ids(single.slice(at + 1)) };
  }

  /** The published implementation, for comparison. */
  get published(): Published {
    return this.#published;
  }

  /** Id of a token by its name. */
  id(token: string): number {
    const id = this.#literal.id(token) ?? this.#vocabulary.get(token);
    if (id === undefined) throw new WaverError("checkpoint_invalid", `tokenizer.json has no token ${token}`);
    return id;
  }

  /**
   * Ids of a text. Tokens of the vocabulary's own (`<|im_end|>`) are taken literally. `around` adds what the
   * post-processor does (nothing in Qwen's).
   */
  encode(text: string, { around = true }: { around?: boolean } = {}): number[] {
    const ids = this.#literal.encode(text, (part) => this.#encodePlain(part));
    return around ? [...this.#around.before, ...ids, ...this.#around.after] : ids;
  }

  /** Text of ids; tokens that mark structure are left out unless asked for. */
  decode(ids: readonly number[], { special = false }: { special?: boolean } = {}): string {
    const tokens = ids
      .filter((id) => special || !this.#special.has(id))
      .map((id) => this.#published.idToToken(id))
      .filter((token) => token !== null);
    return this.#published.getDecoder()?.decode(tokens) ?? tokens.join("");
  }

  #encodePlain(text: string): number[] {
    if (text === "") return [];
    return wordsOf(this.#published, text).flatMap((word) => this.#word(word));
  }

  #word(word: string): readonly number[] {
    const known = this.#cache.get(word);
    if (known !== undefined) return known;
    const whole = this.#ignoreMerges ? this.#vocabulary.get(word + this.#suffix) : undefined;
    const ids = whole === undefined ? this.#merge(this.#characters(word)) : [whole];
    if (word.length <= CACHE.length && this.#cache.size < CACHE.pieces) this.#cache.set(word, ids);
    return ids;
  }

  #characters(word: string): number[] {
    const characters = [...word];
    return characters.flatMap((character, i) => {
      const id =
        this.#vocabulary.get(i === characters.length - 1 ? character + this.#suffix : character) ?? this.#unknown;
      return id === undefined ? [] : [id];
    });
  }

  /** Joins the neighbours of lowest rank, leftmost first, until no merge applies. n log n: a word may be a whole prompt. */
  #merge(ids: number[]): number[] {
    const n = ids.length;
    const next = Int32Array.from({ length: n }, (_, i) => i + 1);
    const previous = Int32Array.from({ length: n }, (_, i) => i - 1);
    const gone = new Uint8Array(n);
    const pairAt = (at: number): { rank: number; id: number } | undefined => {
      const right = next[at] as number;
      return right >= n ? undefined : this.#merges.get((ids[at] as number) * BASE + (ids[right] as number));
    };
    const heap = new LeastFirst();
    const offer = (at: number): void => {
      const pair = pairAt(at);
      if (pair !== undefined) heap.push(pair.rank * BASE + at);
    };
    for (let at = 0; at < n; at++) offer(at);
    for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
      const at = key % BASE;
      const pair = gone[at] ? undefined : pairAt(at);
      // what stood here when it was offered may have been joined with something else since
      if (pair === undefined || pair.rank !== Math.floor(key / BASE)) continue;
      const right = next[at] as number;
      ids[at] = pair.id;
      gone[right] = 1;
      next[at] = next[right] as number;
      if ((next[at] as number) < n) previous[next[at] as number] = at;
      offer(at);
      if ((previous[at] as number) >= 0) offer(previous[at] as number);
    }
    return ids.filter((_, i) => gone[i] === 0);
  }
}

/** A binary heap of numbers. */
class LeastFirst {
  readonly #keys: number[] = [];

  push(key: number): void {
    const keys = this.#keys;
    let at = keys.length;
    keys.push(key);
    while (at > 0) {
      const up = (at - 1) >> 1;
      if ((keys[up] as number) <= key) break;
      keys[at] = keys[up] as number;
      at = up;
    }
    keys[at] = key;
  }

  pop(): number | undefined {
    const keys = this.#keys;
    const least = keys[0];
    const last = keys.pop();
    if (last === undefined || keys.length === 0) return least;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      if (down >= keys.length) break;
      if (down + 1 < keys.length && (keys[down + 1] as number) < (keys[down] as number)) down++;
      if ((keys[down] as number) >= last) break;
      keys[at] = keys[down] as number;
      at = down;
    }
    keys[at] = last;
    return least;
  }
}
