/** Files in torch's own format, as `torch.save` writes a state dict: what the authors of models publish. */
import { writeFileSync } from "node:fs";
import type { Tensor } from "../../native/index.ts";

const STORAGES: Readonly<Record<string, string>> = {
  float32: "FloatStorage",
  float16: "HalfStorage",
  bfloat16: "BFloat16Storage",
};

/** Opcodes of pickle's protocol 2 that a state dict needs. */
class Pickle {
  readonly #bytes: number[] = [0x80, 2];

  op(...codes: number[]): this {
    this.#bytes.push(...codes);
    return this;
  }
  global(module: string, name: string): this {
    return this.op(0x63, ...Buffer.from(`${module}\n${name}\n`));
  }
  text(value: string): this {
    const bytes = Buffer.from(value);
    return this.op(0x58, ...le32(bytes.length), ...bytes);
  }
  int(value: number): this {
    return this.op(0x4a, ...le32(value));
  }
  ints(values: readonly number[]): this {
    this.op(0x28);
    for (const value of values) this.int(value);
    return this.op(0x74);
  }
  ended(): Uint8Array {
    return Uint8Array.from([...this.#bytes, 0x2e]);
  }
}

const le32 = (n: number): number[] => [n & 255, (n >> 8) & 255, (n >> 16) & 255, (n >> 24) & 255];
const le16 = (n: number): number[] => [n & 255, (n >> 8) & 255];

/** Writes tensors as torch's zip form: a pickle that points into one stored entry a tensor. */
export function writePth(path: string, tensors: ReadonlyMap<string, Tensor>): void {
  const pickle = new Pickle().op(0x7d, 0x28); // {}, mark
  const entries: { name: string; data: Uint8Array }[] = [];
  let index = 0;
  for (const [name, tensor] of tensors) {
    const { shape, dtype } = tensor;
    const numel = shape.reduce((a, b) => a * b, 1);
    const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
    pickle.text(name).global("torch._utils", "_rebuild_tensor_v2").op(0x28);
    pickle
      .op(0x28)
      .text("storage")
      .global("torch", STORAGES[dtype] as string);
    pickle.text(String(index)).text("cpu").int(numel).op(0x74, 0x51); // persistent id
    pickle.int(0).ints(shape).ints(strides).op(0x89); // offset, shape, strides, no gradient
    pickle.global("collections", "OrderedDict").op(0x29, 0x52); // no hooks
    pickle.op(0x74, 0x52);
    entries.push({ name: `archive/data/${index++}`, data: bytesOf(tensor) });
  }
  pickle.op(0x75); // the items into the dict
  entries.unshift({ name: "archive/data.pkl", data: pickle.ended() });
  entries.push({ name: "archive/version", data: Buffer.from("3\n") });
  writeFileSync(path, zipped(entries));
}

function bytesOf(tensor: Tensor): Uint8Array {
  if (tensor.dtype !== "float32") throw new Error("the writer of tests takes float32");
  const values = tensor.toFloat32Array();
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** A zip of stored entries. */
function zipped(entries: readonly { name: string; data: Uint8Array }[]): Uint8Array {
  const [files, directory]: [Uint8Array[], Uint8Array[]] = [[], []];
  let at = 0;
  for (const { name, data } of entries) {
    const title = Buffer.from(name);
    const facts = [...le32(Bun.hash.crc32(data)), ...le32(data.length), ...le32(data.length), ...le16(title.length)];
    const local = Uint8Array.from([0x50, 0x4b, 3, 4, ...le16(10), 0, 0, 0, 0, 0, 0, 0, 0, ...facts, 0, 0, ...title]);
    directory.push(
      Uint8Array.from([
        ...[0x50, 0x4b, 1, 2, ...le16(10), ...le16(10), 0, 0, 0, 0, 0, 0, 0, 0, ...facts],
        ...[...new Array<number>(12).fill(0), ...le32(at), ...title],
      ]),
    );
    files.push(local, data);
    at += local.length + data.length;
  }
  const size = directory.reduce((sum, each) => sum + each.length, 0);
  const count = le16(entries.length);
  const end = Uint8Array.from([0x50, 0x4b, 5, 6, 0, 0, 0, 0, ...count, ...count, ...le32(size), ...le32(at), 0, 0]);
  return Buffer.concat([...files, ...directory, end]);
}
