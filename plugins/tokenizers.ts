/** What tokenizers of every kind share: the published library (npm `tokenizers`, Hugging Face's in Rust), and tokens taken literally. */
import { createRequire } from "node:module";
import type { Tokenizer as Published } from "tokenizers";
import { z } from "zod";
import { WaverError } from "./errors.ts";

export type { Published };

/** The library is a native module: where it does not load, that is what the user hears, not an import's stack. */
export function published(text: string): Published {
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
    throw new WaverError("checkpoint_invalid", `tokenizer.json is not what its library reads: ${String(cause)}`, {
      cause,
    });
  }
}

/** A text through the library's normaliser and pre-tokenizer. */
export function wordsOf(library: Published, text: string): string[] {
  const normal = library.getNormalizer()?.normalizeString(text) ?? text;
  return (
    library
      .getPreTokenizer()
      ?.preTokenizeString(normal)
      .map(([word]) => word) ?? [normal]
  );
}

/** `added_tokens` of a tokenizer.json. */
export const AddedTokens = z
  .array(
    z.object({
      id: z.int(),
      content: z.string().min(1),
      single_word: z.boolean().default(false),
      lstrip: z.boolean().default(false),
      rstrip: z.boolean().default(false),
      special: z.boolean().default(false),
    }),
  )
  .default([]);

/** Tokens that are found in a text before anything else looks at it (`</s>`, `<|im_end|>`). */
export class LiteralTokens {
  readonly #ids: ReadonlyMap<string, number>;
  readonly #split: RegExp | undefined;

  constructor(tokens: z.output<typeof AddedTokens>) {
    this.#ids = new Map(tokens.map(({ content, id }) => [content, id]));
    const longestFirst = tokens.toSorted((a, b) => b.content.length - a.content.length);
    const patterns = longestFirst.map(({ content, lstrip, rstrip, single_word }) => {
      const word = single_word ? "\\b" : "";
      return `${lstrip ? "\\s*" : ""}${word}(?:${content.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")})${word}${rstrip ? "\\s*" : ""}`;
    });
    this.#split = patterns.length === 0 ? undefined : new RegExp(`(${patterns.join("|")})`, "gu");
  }

  id(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /** Ids of a text, what lies between such tokens by `plain`. */
  encode(text: string, plain: (part: string) => readonly number[]): number[] {
    const parts = this.#split === undefined ? [text] : text.split(this.#split);
    return parts.flatMap((part, i) => {
      const id = i % 2 === 1 ? (this.#ids.get(part) ?? this.#ids.get(part.trim())) : undefined;
      return id === undefined ? plain(part) : [id];
    });
  }
}
