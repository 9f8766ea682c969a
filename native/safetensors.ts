// Checkpoints: strict reading, mapped without a copy; atomic writing. Nothing in a file is ever executed.
import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { addon } from "./addon.ts";
import type { DType } from "./dtype.ts";
import { EngineError } from "./errors.ts";
import { type Entry, formatHeader, type Header, invalid, MAX_HEADER, parseHeader } from "./header.ts";
import { type Device, Tensor } from "./tensor.ts";

export interface TensorInfo {
  dtype: DType;
  shape: readonly number[];
  bytes: number;
}
export interface Checkpoint extends Disposable {
  readonly keys: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  /** No two tensors that get() gave share memory. */
  readonly exclusive: true;
  info(key: string): TensorInfo;
  /** Points into the file's mapping where it can (in-place changes stay in memory); converted, a copy. */
  get(key: string, options?: { dtype?: DType; device?: Device }): Tensor;
  /** Its bytes will be read soon: the system may bring them from the disk meanwhile. */
  prefetch(key: string): void;
  /** The tensor that get() gave is freed: its bytes leave this process until it is asked for again. */
  release(key: string): void;
  has(key: string): boolean;
  dispose(): void;
}

function open(path: string): number {
  try {
    return openSync(path, "r");
  } catch (e) {
    throw new EngineError("checkpoint_unreadable", `${path}: ${(e as Error).message}`);
  }
}

function readHeader(fd: number): Header & { dataStart: number } {
  const stat = fstatSync(fd);
  if (!stat.isFile()) throw new EngineError("checkpoint_unreadable", "not a regular file");
  const cut = () => new EngineError("checkpoint_truncated", "the file ends inside its header");
  const read = (size: number, from: number) => {
    const out = new Uint8Array(size);
    for (let n = 0; n < size; ) {
      const got = readSync(fd, out, n, size - n, from + n);
      if (got === 0) throw cut();
      n += got;
    }
    return out;
  };
  const length = new DataView(read(8, 0).buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER)) throw invalid(`a header of ${length} bytes, ${MAX_HEADER} is the limit`);
  const dataStart = 8 + Number(length);
  if (dataStart > stat.size) throw cut();
  return { ...parseHeader(read(Number(length), 8), stat.size - dataStart), dataStart };
}

class SafetensorsFile implements Checkpoint {
  readonly exclusive = true;
  readonly keys: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly #path: string;
  readonly #entries: Map<string, Entry>;
  readonly #dataStart: number;
  /** Kept open, so that a file renamed over this one is never mixed with this one's header; -1 when closed. */
  #fd: number;
  #mapping = 0;
  readonly #given = new Set<string>(); // tensors that hold memory of the current mapping

  constructor(path: string) {
    this.#path = path;
    this.#fd = open(path);
    try {
      const { entries, metadata, dataStart } = readHeader(this.#fd);
      this.#entries = entries;
      this.#dataStart = dataStart;
      this.metadata = metadata;
      this.keys = [...entries.keys()];
    } catch (e) {
      this.dispose();
      throw e instanceof EngineError ? new EngineError(e.code, `${path}: ${e.message}`, e.hint) : e;
    }
    descriptors.register(this, this.#fd, this);
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }
  #entry(key: string): Entry {
    const e = this.#entries.get(key);
    if (!e) throw new EngineError("checkpoint_mismatch", `${this.#path} has no tensor ${JSON.stringify(key)}`);
    return e;
  }
  info(key: string): TensorInfo {
    const { dtype, shape, begin, end } = this.#entry(key);
    return { dtype, shape, bytes: end - begin };
  }
  get(key: string, { dtype, device }: { dtype?: DType; device?: Device } = {}): Tensor {
    const e = this.#entry(key);
    if (this.#fd < 0) throw new EngineError("tensor_stale", `${this.#path} is closed`);
    if (this.#mapping === 0 || this.#given.has(key)) {
      this.#unmap();
      this.#mapping = addon().mapFile(this.#fd);
    }
    const handle = addon().fromMapping(this.#mapping, this.#dataStart + e.begin, e.end - e.begin, e.dtype, e.shape);
    const mapped = new Tensor(handle);
    if ((dtype ?? e.dtype) === e.dtype && (device ?? "cpu") === "cpu") {
      this.#given.add(key);
      return mapped;
    }
    try {
      return mapped.to({ dtype, device });
    } finally {
      mapped.dispose();
    }
  }
  prefetch(key: string): void {
    this.#advise(key, true);
  }
  release(key: string): void {
    this.#given.delete(key);
    this.#advise(key, false);
  }
  #advise(key: string, soon: boolean): void {
    const { begin, end } = this.#entry(key);
    if (this.#mapping !== 0) addon().adviseMapping(this.#mapping, this.#dataStart + begin, end - begin, soon);
  }
  /** Memory that tensors point into stays mapped until the last of them is freed. */
  #unmap(): void {
    if (this.#mapping !== 0) addon().unmapFile(this.#mapping);
    this.#mapping = 0;
    this.#given.clear();
  }
  dispose(): void {
    if (this.#fd < 0) return;
    this.#unmap();
    descriptors.unregister(this);
    closeSync(this.#fd);
    this.#fd = -1;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

const descriptors = new FinalizationRegistry<number>(closeSync);

/** Opens one safetensors file; its header is checked in full here. */
export function openSafetensors(path: string): Checkpoint {
  return new SafetensorsFile(path);
}

/** Several files as one. */
class Shards implements Checkpoint {
  readonly exclusive = true;
  readonly keys: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly #byKey = new Map<string, Checkpoint>();
  readonly #files = new Map<string, Checkpoint>();

  constructor(index: string) {
    const folder = dirname(index);
    const map = readIndex(index);
    try {
      for (const [key, name] of map) {
        let file = this.#files.get(name);
        if (!file) {
          if (!existsSync(join(folder, name)))
            throw new EngineError(
              "checkpoint_missing",
              `${index} places weights in ${name}, which is not there`,
              "fetch the missing file: a checkpoint is all of its shards",
            );
          file = openSafetensors(join(folder, name));
          this.#files.set(name, file);
        }
        if (!file.has(key))
          throw new EngineError("checkpoint_invalid", `${index} places ${key} in ${name}, which lacks it`);
        this.#byKey.set(key, file);
      }
    } catch (e) {
      this.dispose();
      throw e;
    }
    this.keys = [...map.keys()];
    this.metadata = this.#files.values().next().value?.metadata ?? {};
  }

  #file(key: string): Checkpoint {
    const f = this.#byKey.get(key);
    if (!f) throw new EngineError("checkpoint_mismatch", `the checkpoint has no tensor ${JSON.stringify(key)}`);
    return f;
  }
  has(key: string): boolean {
    return this.#byKey.has(key);
  }
  info(key: string): TensorInfo {
    return this.#file(key).info(key);
  }
  get(key: string, options?: { dtype?: DType; device?: Device }): Tensor {
    return this.#file(key).get(key, options);
  }
  prefetch(key: string): void {
    this.#file(key).prefetch(key);
  }
  release(key: string): void {
    this.#file(key).release(key);
  }
  dispose(): void {
    for (const f of this.#files.values()) f.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function readIndex(path: string): Map<string, string> {
  const bad = (why: string) => new EngineError("checkpoint_invalid", `${path}: ${why}`);
  if (statSync(path).size > MAX_HEADER) throw bad(`larger than ${MAX_HEADER} bytes`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(path, "utf8"));
  } catch {
    throw bad("not JSON");
  }
  const map = (parsed as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null) throw bad("no weight_map");
  const out = new Map<string, string>();
  for (const [key, name] of Object.entries(map)) {
    // a plain name: an index never leads out of its folder
    if (typeof name !== "string" || basename(name) !== name || !name.endsWith(".safetensors")) {
      throw bad(`${JSON.stringify(key)} is placed in ${JSON.stringify(name)}, not the name of a safetensors file`);
    }
    out.set(key, name);
  }
  if (out.size === 0) throw bad("an empty weight_map");
  return out;
}

/** Files that are read as data by the one-way converter only. */
const FOREIGN = /\.(pth|pt|bin|ckpt)$/;
const convert = (path: string): string => `make a safetensors file of it first: waver convert ${path}`;

/** Whether there are weights at a path: a file, or a folder with any. */
export function hasWeights(path: string): boolean {
  if (!existsSync(path)) return false;
  return !statSync(path).isDirectory() || readdirSync(path).some((name) => /\.(safetensors|pth|pt|bin)$/.test(name));
}

/** A safetensors file, a `*.safetensors.index.json`, or a folder that holds one index or one file. */
export function openCheckpoint(path: string): Checkpoint {
  if (!existsSync(path)) throw new EngineError("checkpoint_unreadable", `${path} does not exist`);
  if (FOREIGN.test(path) && !statSync(path).isDirectory())
    throw new EngineError(
      "checkpoint_unreadable",
      `${path} is in torch's own format, which can carry code`,
      convert(path),
    );
  if (!statSync(path).isDirectory()) return path.endsWith(".index.json") ? new Shards(path) : openSafetensors(path);
  const names = readdirSync(path).sort();
  const indices = names.filter((n) => n.endsWith(".safetensors.index.json"));
  const files = names.filter((n) => n.endsWith(".safetensors") && !n.startsWith("."));
  if (indices.length === 1) return new Shards(join(path, indices[0] as string));
  if (indices.length === 0 && files.length === 1) return openSafetensors(join(path, files[0] as string));
  const found = [...indices, ...files];
  const foreign = names.find((name) => FOREIGN.test(name));
  if (found.length === 0 && foreign !== undefined)
    throw new EngineError("checkpoint_unreadable", `${path} holds no safetensors file`, convert(join(path, foreign)));
  throw new EngineError(
    "checkpoint_unreadable",
    found.length === 0 ? `${path} holds no safetensors file` : `${path} holds several: ${found.slice(0, 6).join(", ")}`,
    found.length === 0 ? undefined : "name the file itself",
  );
}

/** Writes a file whole or not at all: a temporary beside it, fsync, rename, fsync of the folder. */
export function saveSafetensors(
  path: string,
  tensors: Readonly<Record<string, Tensor>> | ReadonlyMap<string, Tensor>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const map = tensors instanceof Map ? (tensors as ReadonlyMap<string, Tensor>) : new Map(Object.entries(tensors));
  const { bytes, order } = formatHeader(map, metadata);
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path)}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`);
  const fd = openSync(temporary, "wx");
  let open = true;
  try {
    for (let n = 0; n < bytes.length; ) n += writeSync(fd, bytes, n, bytes.length - n);
    for (const key of order) addon().writeTensor(fd, map.get(key)!.live());
    fsyncSync(fd);
    closeSync(fd);
    open = false;
    renameSync(temporary, path);
  } catch (e) {
    if (open) closeSync(fd);
    rmSync(temporary, { force: true });
    if (e instanceof EngineError) throw e;
    throw new EngineError("write_failed", `${path}: ${(e as Error).message}`);
  }
  addon().syncFolder(folder);
}
