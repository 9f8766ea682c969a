import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FileBytes, readArchive, readEntry } from "./archive.ts";
import { convertInChild, convertPth } from "./converter.ts";
import { WaverError } from "./errors.ts";
import { type PickleRules, readPickle } from "./pickle.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-pickle-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const fixture = (name: string): string => join(import.meta.dir, "../test/fixtures/pth", name);
const none: PickleRules = { allow: new Map() };
const ascii = (text: string): number[] => [...text].map((letter) => letter.charCodeAt(0));
const PROTO = [0x80, 2];

function codeOf(work: () => unknown): { code: string; message: string } {
  try {
    work();
  } catch (error) {
    if (error instanceof WaverError) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error("nothing was thrown");
}
const refusal = (bytes: readonly number[], rules = none) => codeOf(() => readPickle(Uint8Array.from(bytes), 0, rules));

/** A file in the chained form whose main pickle is `main`. */
function chained(
  main: readonly number[],
  keys: readonly number[] = [...PROTO, 0x5d, 0x2e],
  rest: readonly number[] = [],
): string {
  const magic = [...PROTO, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e];
  const path = join(folder, `${Math.random()}.pth`);
  writeFileSync(
    path,
    Uint8Array.from([...magic, ...PROTO, 0x4d, 0xe9, 0x03, 0x2e, ...PROTO, 0x7d, 0x2e, ...main, ...keys, ...rest]),
  );
  return path;
}
const global = (module: string, name: string): number[] => [0x63, ...ascii(`${module}\n${name}\n`)];
const text = (value: string): number[] => [0x58, value.length, 0, 0, 0, ...ascii(value)];
/** Pickle of one float32 tensor named "w" of `numel` elements in storage "0", seen with the given shape and stride. */
const tensor = (numel: number, offset: number, shape: number, stride: number): number[] => [
  ...PROTO,
  0x7d,
  ...text("w"),
  ...global("torch._utils", "_rebuild_tensor_v2"),
  0x28,
  0x28,
  ...text("storage"),
  ...global("torch", "FloatStorage"),
  ...text("0"),
  ...text("cpu"),
  0x4b,
  numel,
  0x4e,
  0x74,
  0x51,
  0x4b,
  offset,
  0x4b,
  shape,
  0x85,
  0x4b,
  stride,
  0x85,
  0x89,
  ...global("collections", "OrderedDict"),
  0x29,
  0x52,
  0x74,
  0x52,
  0x73,
  0x2e,
];
const storageKey = [...PROTO, 0x5d, ...text("0"), 0x61, 0x2e];
const storage = (numel: number): number[] => [numel, 0, 0, 0, 0, 0, 0, 0, ...new Array<number>(4 * numel).fill(0)];

describe("a pickle runs nothing", () => {
  test("a call to the shell is refused by name, before its arguments matter", () => {
    const main = [...PROTO, ...global("os", "system"), ...text("touch /tmp/owned"), 0x85, 0x52, 0x2e];
    const { code, message } = codeOf(() => convertPth(chained(main), join(folder, "out")));
    expect(code).toBe("checkpoint_invalid");
    expect(message).toContain("os.system");
    expect(existsSync(join(folder, "out"))).toBe(false);
    expect(existsSync(join(folder, "out.partial"))).toBe(false);
  });
  for (const [name, module, callee] of [
    ["builtins", "builtins", "eval"],
    ["a neighbour of an allowed name", "torch._utils", "_rebuild_tensor_v3"],
    ["a dotted way out of an allowed module", "collections", "OrderedDict.__init__.__globals__"],
    ["torch's own loader", "torch.storage", "_load_from_bytes"],
    ["a name of every JavaScript object", "torch", "constructor"],
  ] as const) {
    test(`${name} is refused`, () => {
      const main = [...PROTO, ...global(module, callee), 0x29, 0x52, 0x2e];
      expect(codeOf(() => convertPth(chained(main), join(folder, "out"))).code).toBe("checkpoint_invalid");
      const stacked = [...PROTO, ...text(module), ...text(callee), 0x93, 0x29, 0x52, 0x2e];
      expect(codeOf(() => convertPth(chained(stacked), join(folder, "out"))).code).toBe("checkpoint_invalid");
    });
  }
  for (const [name, op] of [
    ["INST", 0x69],
    ["OBJ", 0x6f],
    ["NEWOBJ", 0x81],
    ["NEWOBJ_EX", 0x92],
    ["EXT1", 0x82],
    ["PERSID", 0x50],
    ["INT as text", 0x49],
    ["DUP", 0x32],
  ] as const) {
    test(`opcode ${name} is refused`, () => {
      expect(refusal([...PROTO, 0x28, op, 0x0a, 0x2e]).message).toContain("opcode");
    });
  }
  test("a storage class may be named but not called", () => {
    const main = [...PROTO, ...global("torch", "FloatStorage"), 0x29, 0x52, 0x2e];
    expect(codeOf(() => convertPth(chained(main), join(folder, "out"))).message).toContain("may only be named");
  });
  test("BUILD on anything but a dictionary is refused", () => {
    expect(refusal([...PROTO, 0x5d, 0x7d, 0x62, 0x2e]).code).toBe("checkpoint_invalid");
  });
  test("__proto__ is only a key", () => {
    const { value } = readPickle(Uint8Array.from([...PROTO, 0x7d, ...text("__proto__"), 0x7d, 0x73, 0x2e]), 0, none);
    expect(value).toBeInstanceOf(Map);
    expect(({} as Record<string, unknown>)["w"]).toBeUndefined();
  });
});

describe("damage ends in a typed error", () => {
  test.each([
    ["empty", []],
    ["no stop", [...PROTO, 0x4e]],
    ["text past the end", [...PROTO, 0x58, 0xff, 0xff, 0xff, 0xff, 0x61]],
    ["text that is not UTF-8", [...PROTO, 0x58, 1, 0, 0, 0, 0xff, 0x2e]],
    ["empty stack", [...PROTO, 0x2e]],
    ["no mark", [...PROTO, 0x74, 0x2e]],
    ["mark as a value", [...PROTO, 0x28, 0x85, 0x2e]],
    ["unknown memo", [...PROTO, 0x68, 9, 0x2e]],
    ["key without value", [...PROTO, 0x7d, 0x28, 0x4e, 0x75, 0x2e]],
    ["persistent id", [...PROTO, 0x4e, 0x51, 0x2e]],
    ["protocol 9", [0x80, 9, 0x2e]],
  ] as const)("%s", (_, bytes) => {
    expect(["checkpoint_invalid", "checkpoint_truncated"]).toContain(refusal(bytes).code);
  });
  test.each([
    ["offset outside", 4, 3, 2, 1],
    ["stride outside", 4, 0, 3, 2],
    ["a stride of 0 that would blow up a small file", 4, 0, 200, 0],
  ] as const)("a tensor with %s", (_, numel, offset, shape, stride) => {
    const path = chained(tensor(numel, offset, shape, stride), storageKey, storage(numel));
    expect(codeOf(() => convertPth(path, join(folder, "out"))).message).toContain("outside its storage");
  });
  test("a storage cut short", () => {
    const path = chained(tensor(4, 0, 4, 1), storageKey, storage(4).slice(0, -3));
    expect(codeOf(() => convertPth(path, join(folder, "out"))).code).toBe("checkpoint_truncated");
  });
  test("the hand-made file without damage is read", () => {
    const path = chained(tensor(4, 0, 4, 1), storageKey, storage(4));
    expect(convertPth(path, join(folder, "good")).numTensors).toBe(1);
  });
  test("every prefix of a real file", () => {
    for (const name of ["zip.pth", "legacy.pth"]) {
      const bytes = readFileSync(fixture(name));
      for (let length = 0; length < bytes.length; length += 37) {
        const path = join(folder, "prefix.pth");
        writeFileSync(path, bytes.subarray(0, length));
        expect(["checkpoint_invalid", "checkpoint_truncated"]).toContain(
          codeOf(() => convertPth(path, join(folder, "out"))).code,
        );
      }
    }
  });
  test("a changed byte is never an untyped error", () => {
    for (const name of ["zip.pth", "legacy.pth"]) {
      const bytes = readFileSync(fixture(name));
      for (let at = 0; at < bytes.length; at += 11) {
        const changed = Uint8Array.from(bytes);
        changed[at] = (changed[at] as number) ^ 0x5a;
        const path = join(folder, "changed.pth");
        writeFileSync(path, changed);
        try {
          convertPth(path, join(folder, "out"));
        } catch (error) {
          expect(error).toBeInstanceOf(WaverError);
        }
      }
    }
  });
});

/** Names, dtypes, shapes and values of a small safetensors file, read by the format's own words. */
function contents(path: string): Record<string, { dtype: string; shape: number[]; bytes: Uint8Array }> {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  expect(length % 8).toBe(0);
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  delete header["__metadata__"];
  return Object.fromEntries(
    Object.entries(header).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => [name, { dtype, shape, bytes: bytes.subarray(8 + length + from, 8 + length + to) }],
    ),
  );
}

describe("both forms of a real checkpoint", () => {
  for (const name of ["zip.pth", "legacy.pth"]) {
    test(name, async () => {
      const output = join(folder, `${name}.safetensors`);
      const { numTensors } = await convertInChild(fixture(name), output, AbortSignal.timeout(30_000));
      expect(numTensors).toBe(8);
      const found = contents(output);
      const floats = (key: string): number[] => [...new Float32Array(Uint8Array.from(found[key]!.bytes).buffer)];
      expect(floats("state_dict.plain")).toEqual(Array.from({ length: 24 }, (_, i) => i));
      expect(found["state_dict.transposed"]!.shape).toEqual([6, 4]);
      expect(floats("state_dict.transposed").slice(0, 5)).toEqual([0, 6, 12, 18, 1]);
      expect(floats("state_dict.slice")).toEqual([8, 9, 10, 14, 15, 16]);
      expect(found["state_dict.half"]).toEqual({
        dtype: "F16",
        shape: [2],
        bytes: Buffer.from([0x00, 0x3e, 0x00, 0xc0]),
      });
      expect(found["state_dict.bf"]!.dtype).toBe("BF16");
      expect(found["state_dict.count"]).toEqual({
        dtype: "I64",
        shape: [],
        bytes: Buffer.from([7, 0, 0, 0, 0, 0, 0, 0]),
      });
      expect(found["state_dict.mask"]).toEqual({ dtype: "BOOL", shape: [2], bytes: Buffer.from([1, 0]) });
      expect(floats("parameter")).toEqual([9]);
    });
  }
  test("a child that is refused passes the reason on", async () => {
    const main = [...PROTO, ...global("os", "system"), ...text("x"), 0x85, 0x52, 0x2e];
    const failure = await convertInChild(chained(main), join(folder, "out"), AbortSignal.timeout(30_000)).catch(
      (error: unknown) => error,
    );
    expect(failure).toBeInstanceOf(WaverError);
    expect((failure as WaverError).message).toContain("os.system");
  });
  test("an archive's entries are read by name, packed or not", () => {
    using file = new FileBytes(fixture("zip.pth"));
    const entries = readArchive(file);
    expect(new TextDecoder().decode(readEntry(file, entries.get("zip/byteorder")!))).toBe("little");
  });
});
