/**
 * A golden case folder: `case.json` (params, notes, tolerance an output), `io.safetensors` (`in.NAME`, `out.NAME`) and
 * sometimes `expected.json`. The reference side is read here, without native/, so that the engine's own file reader is
 * among the things under test.
 */
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

export interface Tolerance {
  /** Equal element for element. */
  readonly exact?: boolean;
  readonly max_abs?: number;
  readonly rel_l2?: number;
}

/** A plain n-dimensional array, row-major. */
export interface NdArray {
  readonly shape: readonly number[];
  readonly data: ArrayLike<number>;
}

interface CaseFile {
  readonly name?: string;
  readonly params?: Record<string, unknown>;
  readonly tolerance?: Record<string, Tolerance>;
}

interface Entry {
  readonly dtype: string;
  readonly shape: number[];
  readonly data_offsets: [number, number];
}

/** The dtypes that golden files use. */
const READ: Readonly<Record<string, (bytes: ArrayBuffer) => ArrayLike<number>>> = {
  F64: (bytes) => new Float64Array(bytes),
  F32: (bytes) => new Float32Array(bytes),
  I64: (bytes) => Array.from(new BigInt64Array(bytes), Number),
  I32: (bytes) => new Int32Array(bytes),
  U8: (bytes) => new Uint8Array(bytes),
  BOOL: (bytes) => new Uint8Array(bytes),
  BF16: (bytes) => new Float32Array(Uint32Array.from(new Uint16Array(bytes), (half) => half << 16).buffer),
};

/** name -> array of a safetensors file, read on demand. */
function readSafetensors(path: string): Map<string, () => NdArray> {
  const file = readFileSync(path);
  const headerLength = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerLength)) as Record<string, Entry>;
  const arrays = new Map<string, () => NdArray>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    arrays.set(name, () => {
      const read = READ[entry.dtype];
      if (read === undefined)
        throw new Error(`${path}: ${name} has dtype ${entry.dtype}, which no golden file used so far`);
      const [from, to] = entry.data_offsets;
      const bytes = file.buffer.slice(
        file.byteOffset + 8 + headerLength + from,
        file.byteOffset + 8 + headerLength + to,
      ) as ArrayBuffer;
      return { shape: entry.shape, data: read(bytes) };
    });
  }
  return arrays;
}

export class Golden {
  readonly folder: string;
  readonly name: string;
  readonly params: Readonly<Record<string, unknown>>;
  /** Tolerance of every output the case checks. */
  readonly tolerance: ReadonlyMap<string, Tolerance>;
  /** `expected.json`, for results that are lists. */
  readonly expected: Readonly<Record<string, unknown>> | undefined;
  readonly #arrays: ReadonlyMap<string, () => NdArray>;

  constructor(folder: string) {
    const file = JSON.parse(readFileSync(join(folder, "case.json"), "utf8")) as CaseFile;
    this.folder = folder;
    this.name = file.name ?? basename(folder);
    this.params = file.params ?? {};
    this.tolerance = new Map(Object.entries(file.tolerance ?? {}));
    const io = join(folder, "io.safetensors");
    this.#arrays = existsSync(io) ? readSafetensors(io) : new Map();
    const expected = join(folder, "expected.json");
    this.expected = existsSync(expected)
      ? (JSON.parse(readFileSync(expected, "utf8")) as Record<string, unknown>)
      : undefined;
  }

  /** A path below the case folder. */
  path(...parts: string[]): string {
    return join(this.folder, ...parts);
  }

  /** Names of the inputs, without `in.`. */
  get inputs(): string[] {
    return [...this.#arrays.keys()].filter((name) => name.startsWith("in.")).map((name) => name.slice(3));
  }

  /** Everything that must be produced: tensors by tolerance, else the keys of `expected.json`. */
  get outputs(): string[] {
    if (this.tolerance.size > 0) return [...this.tolerance.keys()];
    return Object.keys(this.expected ?? {});
  }

  has(input: string): boolean {
    return this.#arrays.has(`in.${input}`);
  }

  input(name: string): NdArray {
    return this.#array(`in.${name}`);
  }

  reference(name: string): NdArray {
    return this.#array(`out.${name}`);
  }

  #array(name: string): NdArray {
    const read = this.#arrays.get(name);
    if (read === undefined) throw new Error(`${this.folder}: io.safetensors holds no ${name}`);
    return read();
  }
}
