/**
 * A zip archive, read only: the table of entries, and the bytes of one. Wheels and newer .pth files are zips.
 * Names are keys, never paths: nothing is unpacked to where an entry says.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { inflateRawSync } from "node:zlib";
import { WaverError } from "./errors.ts";

/** A file that is read at positions, so that a large one never has to fit in memory. */
export class FileBytes implements Disposable {
  readonly size: number;
  readonly #fd: number;

  constructor(readonly path: string) {
    try {
      this.#fd = openSync(path, "r");
    } catch (cause) {
      throw new WaverError("checkpoint_missing", `no such file: ${path}`, { cause });
    }
    this.size = fstatSync(this.#fd).size;
  }

  read(offset: number, length: number): Uint8Array {
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new WaverError(
        "checkpoint_truncated",
        `${this.path} ends early: ${offset + length} bytes were expected, it has ${this.size}`,
        {
          hint: "fetch the file again",
        },
      );
    }
    const bytes = new Uint8Array(length);
    let done = 0;
    while (done < length) {
      const count = readSync(this.#fd, bytes, done, Math.min(length - done, 1 << 28), offset + done);
      if (count === 0) throw new WaverError("checkpoint_truncated", `${this.path} shrank while it was read`);
      done += count;
    }
    return bytes;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

export interface ArchiveEntry {
  readonly name: string;
  readonly size: number;
  readonly packedSize: number;
  readonly deflated: boolean;
  /** Where its local header starts. */
  readonly offset: number;
}

const END = 0x06054b50;
const END64 = 0x06064b50;
const END64_LOCATOR = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const invalid = (path: string, why: string): WaverError =>
  new WaverError("checkpoint_invalid", `${path} is not a readable zip archive: ${why}`);
const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function wide(path: string, value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid(path, "a size is beyond any file");
  return Number(value);
}

/** Where the central directory is: the end record, or its 64-bit form when the archive is over 4 GiB. */
function directory(file: FileBytes): { offset: number; size: number; count: number } {
  const length = Math.min(file.size, 22 + 0xffff); // the end record and its longest comment
  const tail = viewOf(file.read(file.size - length, length));
  for (let at = length - 22; at >= 0; at--) {
    if (tail.getUint32(at, true) !== END) continue;
    const end = {
      count: tail.getUint16(at + 10, true),
      size: tail.getUint32(at + 12, true),
      offset: tail.getUint32(at + 16, true),
    };
    const locatorAt = at - 20;
    if (locatorAt < 0 || tail.getUint32(locatorAt, true) !== END64_LOCATOR) return end;
    const record = viewOf(file.read(wide(file.path, tail.getBigUint64(locatorAt + 8, true)), 56));
    if (record.getUint32(0, true) !== END64) throw invalid(file.path, "its 64-bit end record is damaged");
    return {
      count: wide(file.path, record.getBigUint64(32, true)),
      size: wide(file.path, record.getBigUint64(40, true)),
      offset: wide(file.path, record.getBigUint64(48, true)),
    };
  }
  throw invalid(file.path, "it has no end record; it may be cut short");
}

/** Every entry, by name. */
export function readArchive(file: FileBytes): Map<string, ArchiveEntry> {
  const { offset, size, count } = directory(file);
  const bytes = file.read(offset, size);
  const view = viewOf(bytes);
  const text = new TextDecoder();
  const entries = new Map<string, ArchiveEntry>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > size || view.getUint32(at, true) !== CENTRAL)
      throw invalid(file.path, "its table of entries is damaged");
    const [nameLength, extraLength, commentLength] = [
      view.getUint16(at + 28, true),
      view.getUint16(at + 30, true),
      view.getUint16(at + 32, true),
    ];
    const next = at + 46 + nameLength + extraLength + commentLength;
    if (next > size) throw invalid(file.path, "its table of entries is damaged");
    const method = view.getUint16(at + 10, true);
    const fields = [view.getUint32(at + 24, true), view.getUint32(at + 20, true), view.getUint32(at + 42, true)];
    // The 64-bit extra field holds, in this order, those of (size, packed size, offset) that did not fit.
    let extra = at + 46 + nameLength;
    const extraEnd = extra + extraLength;
    while (extra + 4 <= extraEnd) {
      const [id, length] = [view.getUint16(extra, true), view.getUint16(extra + 2, true)];
      let field = extra + 4;
      for (let k = 0; id === 1 && k < 3; k++) {
        if (fields[k] !== 0xffffffff) continue;
        if (field + 8 > Math.min(extraEnd, extra + 4 + length)) throw invalid(file.path, "a 64-bit size is missing");
        fields[k] = wide(file.path, view.getBigUint64(field, true));
        field += 8;
      }
      extra += 4 + length;
    }
    const name = text.decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const [entrySize, packedSize, entryOffset] = fields as [number, number, number];
    if (view.getUint16(at + 8, true) & 1) throw invalid(file.path, `${name} is encrypted`);
    if (method !== 0 && method !== 8)
      throw invalid(file.path, `${name} is packed by a method that is not read (${method})`);
    if (entries.has(name)) throw invalid(file.path, `${name} is in it twice`);
    entries.set(name, { name, size: entrySize, packedSize, deflated: method === 8, offset: entryOffset });
    at = next;
  }
  return entries;
}

/** Position of a stored (not deflated) entry's bytes in the file. */
export function entryStart(file: FileBytes, entry: ArchiveEntry): number {
  const header = viewOf(file.read(entry.offset, 30));
  if (header.getUint32(0, true) !== LOCAL) throw invalid(file.path, `${entry.name} is not where the table says`);
  return entry.offset + 30 + header.getUint16(26, true) + header.getUint16(28, true);
}

/** The bytes of one entry, unpacked; never more than the table says. */
export function readEntry(file: FileBytes, entry: ArchiveEntry): Uint8Array {
  const packed = file.read(entryStart(file, entry), entry.packedSize);
  if (!entry.deflated) {
    if (entry.packedSize !== entry.size) throw invalid(file.path, `${entry.name} has two different sizes`);
    return packed;
  }
  try {
    const bytes = inflateRawSync(packed, { maxOutputLength: Math.max(entry.size, 1) });
    if (bytes.length !== entry.size) throw new Error("short");
    return bytes;
  } catch (cause) {
    throw new WaverError("checkpoint_invalid", `${entry.name} in ${file.path} cannot be unpacked`, {
      cause,
      hint: "fetch the file again",
    });
  }
}
