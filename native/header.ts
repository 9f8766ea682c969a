// The header of a safetensors file: a small grammar, checked in full before anything is allocated.
import type { DType } from "./dtype.ts";
import { itemSize } from "./dtype.ts";
import { EngineError } from "./errors.ts";

export const MAX_HEADER = 16 << 20; // the format allows 100 MB; the largest published header is under 1 MB

const NAMES: Record<string, DType> = {
  F64: "float64",
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  I64: "int64",
  I32: "int32",
  I16: "int16",
  I8: "int8",
  U64: "uint64",
  U32: "uint32",
  U16: "uint16",
  U8: "uint8",
  BOOL: "bool",
  F8_E4M3: "float8_e4m3fn",
  F8_E5M2: "float8_e5m2",
};
const CODES = new Map(Object.entries(NAMES).map(([code, dtype]) => [dtype, code]));

export interface Entry {
  dtype: DType;
  shape: readonly number[];
  /** From the start of the data. */
  begin: number;
  end: number;
}
export interface Header {
  entries: Map<string, Entry>;
  metadata: Record<string, string>;
}

export function invalid(what: string): EngineError {
  return new EngineError("checkpoint_invalid", `not a valid safetensors file: ${what}`);
}

/** JSON.parse keeps the last of two equal keys; here they are an error. Objects become Maps, so no key is special. */
function parse(text: string): unknown {
  let at = 0;
  const fail = (): never => {
    throw invalid(`the header is not JSON (at character ${at})`);
  };
  const space = () => {
    while (at < text.length && " \t\n\r".includes(text[at] as string)) at++;
  };
  const string = (): string => {
    const start = at;
    if (text[at] !== '"') fail();
    at++;
    while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
    at++;
    try {
      return JSON.parse(text.slice(start, at)) as string;
    } catch {
      return fail();
    }
  };
  const value = (depth: number): unknown => {
    if (depth > 4) fail();
    space();
    const c = text[at];
    if (c === '"') return string();
    if (c === "{") return object(depth);
    if (c === "[") return array(depth);
    const number = /^(?:0|[1-9][0-9]{0,15})(?![0-9.eE])/.exec(text.slice(at, at + 20))?.[0];
    if (number === undefined) return fail();
    at += number.length;
    return Number(number);
  };
  const object = (depth: number): Map<string, unknown> => {
    const out = new Map<string, unknown>();
    at++;
    space();
    if (text[at] === "}") {
      at++;
      return out;
    }
    for (;;) {
      space();
      const key = string();
      if (out.has(key)) throw invalid(`the key ${JSON.stringify(key)} occurs twice`);
      space();
      if (text[at++] !== ":") fail();
      out.set(key, value(depth + 1));
      space();
      const c = text[at++];
      if (c === "}") return out;
      if (c !== ",") fail();
    }
  };
  const array = (depth: number): unknown[] => {
    const out: unknown[] = [];
    at++;
    space();
    if (text[at] === "]") {
      at++;
      return out;
    }
    for (;;) {
      out.push(value(depth + 1));
      space();
      const c = text[at++];
      if (c === "]") return out;
      if (c !== ",") fail();
    }
  };
  if (text[0] !== "{") throw invalid("the header does not start with {");
  const result = value(0);
  space();
  if (at !== text.length) fail();
  return result;
}

function integers(value: unknown): number[] | null {
  return Array.isArray(value) && value.every(Number.isSafeInteger) ? (value as number[]) : null;
}

function entry(key: string, value: unknown): Entry {
  const fields = value instanceof Map ? value : new Map<string, unknown>();
  const dtype = NAMES[String(fields.get("dtype"))];
  const shape = integers(fields.get("shape"));
  const offsets = integers(fields.get("data_offsets"));
  if (fields.size !== 3 || typeof fields.get("dtype") !== "string" || !shape || offsets?.length !== 2) {
    throw invalid(`the entry ${JSON.stringify(key)} is not { dtype, shape, data_offsets }`);
  }
  if (!dtype)
    throw invalid(`${JSON.stringify(key)} has dtype ${JSON.stringify(fields.get("dtype"))}, which is not supported`);
  if (shape.length > 16) throw invalid(`${JSON.stringify(key)} has ${shape.length} axes`);
  const [begin, end] = offsets as [number, number];
  let size = itemSize(dtype);
  for (const n of shape) size *= n;
  if (!Number.isSafeInteger(size)) throw invalid(`${JSON.stringify(key)} has shape [${shape}], more than 2^53 bytes`);
  if (end < begin || end - begin !== size) {
    throw invalid(`${JSON.stringify(key)} has ${end - begin} bytes, ${dtype}[${shape}] needs ${size}`);
  }
  return { dtype, shape, begin, end };
}

/** Parses a header and checks that its tensors cover `dataSize` bytes exactly: no gap, no overlap, nothing left. */
export function parseHeader(bytes: Uint8Array, dataSize: number): Header {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw invalid("the header is not UTF-8");
  }
  const entries = new Map<string, Entry>();
  const metadata: Record<string, string> = Object.create(null);
  for (const [key, value] of parse(text) as Map<string, unknown>) {
    if (key !== "__metadata__") {
      entries.set(key, entry(key, value));
      continue;
    }
    if (!(value instanceof Map)) throw invalid("__metadata__ is not an object");
    for (const [k, v] of value) {
      if (typeof v !== "string") throw invalid(`__metadata__ ${JSON.stringify(k)} is not a string`);
      metadata[k] = v;
    }
  }
  let at = 0;
  for (const [key, e] of [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)) {
    if (e.begin !== at) throw invalid(`${JSON.stringify(key)} begins at ${e.begin}, the one before ends at ${at}`);
    at = e.end;
  }
  if (at > dataSize) {
    throw new EngineError(
      "checkpoint_truncated",
      `the file is cut off: ${at} bytes of tensors announced, ${dataSize} present`,
    );
  }
  if (at < dataSize) throw invalid(`${dataSize - at} bytes after the last tensor`);
  return { entries, metadata };
}

/** The bytes before the data: length, JSON, spaces to a multiple of 8. Also the order in which the data follow. */
export function formatHeader(
  tensors: ReadonlyMap<string, { dtype: DType; shape: readonly number[] }>,
  metadata: Readonly<Record<string, string>>,
): { bytes: Uint8Array; order: string[] } {
  // wide types first, so that every tensor is aligned and can be mapped without a copy
  const order = [...tensors.keys()].sort((a, b) => {
    const wide = itemSize(tensors.get(b)!.dtype) - itemSize(tensors.get(a)!.dtype);
    return wide || (a < b ? -1 : 1);
  });
  const fields: string[] = [];
  if (Object.keys(metadata).length > 0) fields.push(`"__metadata__":${JSON.stringify(metadata)}`);
  let at = 0;
  for (const key of order) {
    const { dtype, shape } = tensors.get(key)!;
    const code = CODES.get(dtype);
    if (!code) throw new EngineError("op_arguments", `${key}: safetensors has no dtype ${dtype}`);
    if (key === "__metadata__") throw new EngineError("op_arguments", "a tensor cannot be named __metadata__");
    const end = at + shape.reduce((a, b) => a * b, itemSize(dtype));
    fields.push(`${JSON.stringify(key)}:${JSON.stringify({ dtype: code, shape, data_offsets: [at, end] })}`);
    at = end;
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  if (padded > MAX_HEADER)
    throw new EngineError("op_arguments", `the header would have ${padded} bytes, ${MAX_HEADER} is the limit`);
  const bytes = new Uint8Array(8 + padded).fill(0x20, 8 + json.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(json, 8);
  return { bytes, order };
}
