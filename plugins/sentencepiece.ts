/**
 * A SentencePiece model (Kudo and Richardson 2018, arXiv 1808.06226), the file `spiece.model`, as the tokenizer.json that the
 * published library reads. Unigram models without pieces of the user's own, which is what image-text models come with.
 */
import { readFileSync } from "node:fs";
import { WaverError } from "./errors.ts";

/** Kinds of pieces (sentencepiece_model.proto). */
const [NORMAL, UNKNOWN, USER_DEFINED, BYTE] = [1, 2, 4, 6] as const;
const UNIGRAM = 1;

export interface SentencePiece {
  readonly pieces: readonly { readonly piece: string; readonly score: number; readonly kind: number }[];
  readonly unknown: number;
  readonly byteFallback: boolean;
  readonly charsmap: Uint8Array;
  readonly removesExtraSpaces: boolean;
}

/** Numbers and byte strings of one protocol buffer message, by field. */
type Fields = Map<number, (number | Uint8Array)[]>;

function fieldsOf(bytes: Uint8Array, path: string): Fields {
  const fields: Fields = new Map();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const broken = (): WaverError => new WaverError("checkpoint_invalid", `${path} is no SentencePiece model`);
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[at++];
      if (byte === undefined) throw broken();
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
    throw broken();
  };
  while (at < bytes.length) {
    const tag = varint();
    let value: number | Uint8Array;
    const wire = tag % 8;
    if (wire === 0) value = varint();
    else {
      const length = wire === 1 ? 8 : wire === 5 ? 4 : wire === 2 ? varint() : Number.NaN;
      if (!(at + length <= bytes.length)) throw broken();
      value = wire === 5 ? view.getFloat32(at, true) : bytes.subarray(at, at + length);
      at += length;
    }
    const number = Math.floor(tag / 8);
    const before = fields.get(number);
    if (before === undefined) fields.set(number, [value]);
    else before.push(value);
  }
  return fields;
}

export function readSentencePiece(path: string): SentencePiece {
  const model = fieldsOf(readFileSync(path), path);
  const message = (field: number): Fields => {
    const found = model.get(field)?.at(-1);
    return found instanceof Uint8Array ? fieldsOf(found, path) : new Map();
  };
  const [trainer, normalizer] = [message(2), message(3)];
  const number = (from: Fields, field: number, fallback: number): number => {
    const value = from.get(field)?.at(-1);
    return typeof value === "number" ? value : fallback;
  };
  if (number(trainer, 3, UNIGRAM) !== UNIGRAM)
    throw new WaverError("checkpoint_invalid", `${path} is no unigram model`, { hint: "use its tokenizer.json" });
  const decoder = new TextDecoder();
  const pieces = (model.get(1) ?? []).map((each) => {
    const fields = each instanceof Uint8Array ? fieldsOf(each, path) : new Map();
    const [piece] = (fields.get(1) ?? []) as Uint8Array[];
    return { piece: decoder.decode(piece), score: number(fields, 2, 0), kind: number(fields, 3, NORMAL) };
  });
  if (pieces.length === 0 || pieces.some(({ kind }) => kind === USER_DEFINED))
    throw new WaverError(
      "checkpoint_invalid",
      `${path} holds ${pieces.length === 0 ? "no pieces" : "pieces of its user's own, which are not read"}`,
    );
  const [charsmap] = normalizer.get(2) ?? [];
  return {
    pieces,
    unknown: pieces.findIndex(({ kind }) => kind === UNKNOWN),
    byteFallback: number(trainer, 35, 0) === 1,
    charsmap: charsmap instanceof Uint8Array ? charsmap : new Uint8Array(),
    removesExtraSpaces: number(normalizer, 4, 1) === 1,
  };
}

/**
 * What the library is to be given. A text is taken as it stands in the middle of another: nothing is put in front of it, and what
 * it begins with stays. Pieces that SentencePiece never finds in a text (`</s>`) stand under names that no text has.
 */
export function tokenizerJson({ pieces, unknown, byteFallback, charsmap, removesExtraSpaces }: SentencePiece): string {
  const replace = (pattern: object, content: string): object => ({ type: "Replace", pattern, content });
  const normalizers = [
    ...(charsmap.length === 0
      ? []
      : [{ type: "Precompiled", precompiled_charsmap: Buffer.from(charsmap).toString("base64") }]),
    ...(removesExtraSpaces ? [replace({ Regex: " {2,}" }, " ")] : []),
    replace({ String: " " }, "▁"),
    ...(removesExtraSpaces ? [replace({ Regex: "▁+$" }, "")] : []),
  ];
  const isFound = (kind: number): boolean => kind === NORMAL || kind === BYTE;
  return JSON.stringify({
    version: "1.0",
    added_tokens: [],
    normalizer: { type: "Sequence", normalizers },
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: {
      type: "Unigram",
      unk_id: unknown,
      byte_fallback: byteFallback,
      vocab: pieces.map(({ piece, score, kind }) => (isFound(kind) ? [piece, score] : [`\0${piece}`, 0])),
    },
  });
}
