/**
 * The tensors of a PyTorch checkpoint, in both of its forms: the zip that torch has written since 1.6, and the older
 * chain of pickles with the storages behind it. Only the table is read here; a tensor's bytes are read when asked for.
 */

import { type ArchiveEntry, entryStart, type FileBytes, readArchive, readEntry } from "./archive.ts";
import { WaverError } from "./errors.ts";
import { PickleName, type PickleRules, type PickleValue, readPickle } from "./pickle.ts";

/** Storage classes that a checkpoint may name -> safetensors dtype and bytes an element. */
const STORAGES: Readonly<Record<string, { dtype: string; bytes: number }>> = {
  "torch.DoubleStorage": { dtype: "F64", bytes: 8 },
  "torch.FloatStorage": { dtype: "F32", bytes: 4 },
  "torch.HalfStorage": { dtype: "F16", bytes: 2 },
  "torch.BFloat16Storage": { dtype: "BF16", bytes: 2 },
  "torch.LongStorage": { dtype: "I64", bytes: 8 },
  "torch.IntStorage": { dtype: "I32", bytes: 4 },
  "torch.ShortStorage": { dtype: "I16", bytes: 2 },
  "torch.CharStorage": { dtype: "I8", bytes: 1 },
  "torch.ByteStorage": { dtype: "U8", bytes: 1 },
  "torch.BoolStorage": { dtype: "BOOL", bytes: 1 },
};

/** torch.serialization.MAGIC_NUMBER and PROTOCOL_VERSION of the older form. */
const MAGIC = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;
const MAX_TENSORS = 100_000;
const MAX_RANK = 16;

export class Storage {
  constructor(
    readonly key: string,
    readonly dtype: string,
    readonly elementBytes: number,
    readonly numel: number,
  ) {}
}

/** A strided view of a storage, as the checkpoint describes it. */
export class TensorEntry {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly stride: readonly number[],
  ) {}

  get numel(): number {
    return this.shape.reduce((product, size) => product * size, 1);
  }
}

export interface Pth {
  /** Tensors by dotted name, in the file's order. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** The bytes of a whole storage. */
  storage(storage: Storage): Uint8Array;
}

const bad = (path: string, why: string): WaverError =>
  new WaverError("checkpoint_invalid", `${path} is not a checkpoint that can be read: ${why}`, {
    hint: "ask the author for a safetensors file",
  });

const isCount = (value: PickleValue | undefined): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 0;
const isCounts = (value: PickleValue | undefined): value is number[] =>
  Array.isArray(value) && value.length <= MAX_RANK && value.every(isCount);

function rebuildTensor(path: string, args: readonly PickleValue[]): TensorEntry {
  const [storage, offset, shape, stride] = args;
  if (
    !(storage instanceof Storage) ||
    !isCount(offset) ||
    !isCounts(shape) ||
    !isCounts(stride) ||
    shape.length !== stride.length
  ) {
    throw bad(path, "a tensor is described wrongly");
  }
  const entry = new TensorEntry(storage, offset, shape, stride);
  // A view may not reach past its storage, nor repeat it (strides of 0 would make a small file write a huge one).
  const last = shape.reduce((sum, size, axis) => sum + (size - 1) * (stride[axis] as number), offset);
  if (entry.numel > storage.numel || (entry.numel > 0 && last >= storage.numel))
    throw bad(path, "a tensor reaches outside its storage");
  return entry;
}

function rules(path: string, storages: Map<string, Storage>): PickleRules {
  const allow = new Map<string, ((args: readonly PickleValue[]) => PickleValue) | null>();
  for (const name of Object.keys(STORAGES)) allow.set(name, null);
  allow.set("collections.OrderedDict", (args) => {
    if (args.length > 0) throw bad(path, "a dictionary is built from arguments");
    return new Map();
  });
  allow.set("torch._utils._rebuild_tensor_v2", (args) => rebuildTensor(path, args));
  allow.set("torch._utils._rebuild_parameter", (args) => {
    if (!(args[0] instanceof TensorEntry)) throw bad(path, "a parameter holds no tensor");
    return args[0];
  });
  return {
    allow,
    persistent: (id) => {
      if (
        !Array.isArray(id) ||
        id[0] !== "storage" ||
        !(id[1] instanceof PickleName) ||
        typeof id[2] !== "string" ||
        !isCount(id[4])
      ) {
        throw bad(path, "a storage is described wrongly");
      }
      if (id[5] !== undefined && id[5] !== null)
        throw bad(path, "it holds a view of a storage, which only very old versions of torch wrote");
      const kind = STORAGES[id[1].name];
      if (!kind) throw bad(path, `${id[1].name} is not a storage`);
      const known = storages.get(id[2]);
      if (known) {
        if (known.dtype !== kind.dtype || known.numel !== id[4])
          throw bad(path, "a storage is described twice, differently");
        return known;
      }
      const storage = new Storage(id[2], kind.dtype, kind.bytes, id[4]);
      storages.set(storage.key, storage);
      return storage;
    },
  };
}

/** State dictionaries nest (`{"state_dict": {...}}`); names are joined by dots. What is not a tensor is left out. */
function flatten(path: string, value: PickleValue): Map<string, TensorEntry> {
  const tensors = new Map<string, TensorEntry>();
  const seen = new Set<object>();
  const walk = (node: PickleValue, name: string): void => {
    if (node instanceof TensorEntry) {
      if (tensors.size >= MAX_TENSORS) throw bad(path, `it holds more than ${MAX_TENSORS} tensors`);
      // The second name is what a safetensors header calls its notes.
      if (tensors.has(name) || name === "__metadata__") throw bad(path, `a tensor cannot be named ${name}`);
      tensors.set(name, node);
    } else if (node instanceof Map && !seen.has(node)) {
      seen.add(node); // each dictionary once: shared or circular ones end here
      for (const [key, child] of node) if (typeof key === "string") walk(child, name ? `${name}.${key}` : key);
    }
  };
  walk(value, "");
  if (tensors.size === 0) throw bad(path, "it holds no tensors");
  return tensors;
}

function readZip(file: FileBytes): Pth {
  const entries = readArchive(file);
  const pickles = [...entries.keys()].filter((name) => name.endsWith("/data.pkl"));
  const pickle = pickles.length === 1 ? entries.get(pickles[0] as string) : undefined;
  if (!pickle) throw bad(file.path, "it is a zip archive without a data.pkl");
  const prefix = pickle.name.slice(0, -"data.pkl".length);
  const order = entries.get(`${prefix}byteorder`);
  if (order && new TextDecoder().decode(readEntry(file, order)) !== "little")
    throw bad(file.path, "its numbers are big-endian");
  const { value } = readPickle(readEntry(file, pickle), 0, rules(file.path, new Map()));
  return {
    tensors: flatten(file.path, value),
    storage: (storage) => {
      const entry: ArchiveEntry | undefined = entries.get(`${prefix}data/${storage.key}`);
      const length = storage.numel * storage.elementBytes;
      if (!entry || entry.size !== length)
        throw bad(file.path, "a storage is missing or has another size than its tensor");
      return entry.deflated ? readEntry(file, entry) : file.read(entryStart(file, entry), length);
    },
  };
}

function readChain(file: FileBytes): Pth {
  // The pickles come first and are small; storages follow. A prefix is enough until it proves not to be.
  let bytes = file.read(0, Math.min(file.size, 1 << 24));
  for (;;) {
    try {
      return chainOf(file, bytes);
    } catch (error) {
      if (
        !(error instanceof WaverError) ||
        error.code !== "checkpoint_truncated" ||
        bytes.length >= file.size ||
        bytes.length >= 1 << 28
      )
        throw error;
      bytes = file.read(0, Math.min(file.size, bytes.length * 4));
    }
  }
}

function chainOf(file: FileBytes, bytes: Uint8Array): Pth {
  const plain: PickleRules = { allow: new Map() };
  const magic = readPickle(bytes, 0, plain);
  if (magic.value !== MAGIC) throw bad(file.path, "it does not start as a checkpoint does");
  const protocol = readPickle(bytes, magic.end, plain);
  if (protocol.value !== PROTOCOL) throw bad(file.path, `its protocol is ${String(protocol.value)}, not ${PROTOCOL}`);
  const system = readPickle(bytes, protocol.end, plain);
  if (system.value instanceof Map && system.value.get("little_endian") === false)
    throw bad(file.path, "its numbers are big-endian");
  const storages = new Map<string, Storage>();
  const main = readPickle(bytes, system.end, rules(file.path, storages));
  const keys = readPickle(bytes, main.end, plain);
  if (!Array.isArray(keys.value)) throw bad(file.path, "its list of storages is missing");
  const starts = new Map<string, number>();
  let at = keys.end;
  for (const key of keys.value) {
    const storage = typeof key === "string" ? storages.get(key) : undefined;
    if (!storage) throw bad(file.path, "it lists a storage that no tensor uses");
    const count = new DataView(file.read(at, 8).buffer).getBigInt64(0, true);
    if (count !== BigInt(storage.numel)) throw bad(file.path, "a storage has another size than its tensor");
    starts.set(storage.key, at + 8);
    at += 8 + storage.numel * storage.elementBytes;
  }
  if (at > file.size)
    throw new WaverError("checkpoint_truncated", `${file.path} ends early`, { hint: "fetch the file again" });
  return {
    tensors: flatten(file.path, main.value),
    storage: (storage) => {
      const start = starts.get(storage.key);
      if (start === undefined) throw bad(file.path, "a storage is missing");
      return file.read(start, storage.numel * storage.elementBytes);
    },
  };
}

/** Table of a .pth file of either form. */
export function readPth(file: FileBytes): Pth {
  if (file.size < 4)
    throw new WaverError("checkpoint_truncated", `${file.path} is empty or nearly so`, {
      hint: "fetch the file again",
    });
  const start = file.read(0, 4);
  const isZip = start[0] === 0x50 && start[1] === 0x4b && start[2] === 3 && start[3] === 4;
  return isZip ? readZip(file) : readChain(file);
}

/** The elements of a view, contiguous and row-major. */
export function contiguous(entry: TensorEntry, storage: Uint8Array): Uint8Array {
  const width = entry.storage.elementBytes;
  let dense = 1;
  let isDense = true;
  for (let axis = entry.shape.length - 1; axis >= 0; axis--) {
    const size = entry.shape[axis] as number;
    if (size !== 1 && entry.stride[axis] !== dense) isDense = false;
    dense *= size;
  }
  if (isDense) return storage.subarray(entry.offset * width, (entry.offset + entry.numel) * width);
  const out = new Uint8Array(entry.numel * width);
  const index = entry.shape.map(() => 0);
  for (let i = 0; i < entry.numel; i++) {
    const at = index.reduce((sum, value, axis) => sum + value * (entry.stride[axis] as number), entry.offset) * width;
    out.set(storage.subarray(at, at + width), i * width);
    for (let axis = index.length - 1; axis >= 0; axis--) {
      index[axis] = (index[axis] as number) + 1;
      if ((index[axis] as number) < (entry.shape[axis] as number)) break;
      index[axis] = 0;
    }
  }
  return out;
}
