import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseHeader } from "./header.ts";
import * as w from "./index.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-safetensors-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let count = 0;
const fresh = () => join(folder, `${count++}.safetensors`);

function code(f: () => unknown): string {
  try {
    w.scope(() => void f());
  } catch (e) {
    expect(e).toBeInstanceOf(w.EngineError);
    return (e as w.EngineError).code;
  }
  return "none";
}
function file(header: string | Uint8Array, data = 0, length?: bigint): string {
  const json = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const out = new Uint8Array(8 + json.length + data);
  new DataView(out.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  out.set(json, 8);
  const path = fresh();
  writeFileSync(path, out);
  return path;
}
function empty(): string {
  const path = fresh();
  writeFileSync(path, "");
  return path;
}
const entry = (dtype: string, shape: number[], offsets: number[]) => ({ dtype, shape, data_offsets: offsets });
function sample(): string {
  const path = fresh();
  w.scope(() =>
    w.saveSafetensors(
      path,
      {
        b: w.tensor([
          [1, 2],
          [3, 4],
        ]),
        a: w.tensor([5], { dtype: "bfloat16" }),
      },
      { format: "pt" },
    ),
  );
  return path;
}

describe("a round trip", () => {
  test.each(["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool"] as const)(
    "%s",
    (dtype) => {
      const path = fresh();
      w.scope(() => {
        const t = w.tensor(
          [
            [0, 1],
            [1, 0],
          ],
          { dtype },
        );
        w.saveSafetensors(path, {
          t,
          view: t.transpose(0, 1),
          empty: w.zeros([0, 3], { dtype }),
          scalar: w.tensor(1, { dtype }),
        });
        using f = w.openSafetensors(path);
        expect(f.info("t")).toEqual({ dtype, shape: [2, 2], bytes: t.bytes().length });
        expect(w.equal(f.get("t"), t)).toBe(true);
        expect(f.get("empty").shape).toEqual([0, 3]);
        expect(f.get("scalar").shape).toEqual([]);
        expect(f.get("t", { dtype: "float64" }).toNumbers()).toEqual([0, 1, 1, 0]);
      });
    },
  );
  test("metadata and keys come back; keys named like prototypes are plain keys", () => {
    const path = fresh();
    w.scope(() => w.saveSafetensors(path, new Map([["__proto__", w.ones([1])]]), { a: "é" }));
    using f = w.openSafetensors(path);
    expect(f.keys).toEqual(["__proto__"]);
    expect({ ...f.metadata }).toEqual({ a: "é" });
  });
  test("a mapped weight outlives its file object; writing to it never reaches the file", () => {
    const path = sample();
    const before = readFileSync(path);
    const f = w.openSafetensors(path);
    const t = f.get("b");
    f.dispose();
    expect(code(() => f.get("b"))).toBe("tensor_stale");
    t.add_(1);
    expect(t.toNumbers()).toEqual([2, 3, 4, 5]);
    t.dispose();
    using again = w.openSafetensors(path);
    w.scope(() => {
      again.get("b").add_(1);
      expect([...again.get("b").toNumbers(), again.get("a").item()]).toEqual([1, 2, 3, 4, 5]);
    });
    expect(readFileSync(path)).toEqual(before);
  });
  test("a failed save leaves the old file and no temporary", () => {
    const path = sample();
    const before = readFileSync(path);
    const dead = w.ones([1]);
    const other = w.ones([2]);
    expect(dead.shape).toEqual([1]);
    expect(dead.dtype).toBe("float32");
    dead.dispose();
    expect(code(() => w.saveSafetensors(path, { other, dead }))).toBe("tensor_stale");
    other.dispose();
    expect(readFileSync(path)).toEqual(before);
    expect(readdirSync(folder).filter((n) => n.endsWith(".tmp"))).toEqual([]);
  });
});

test("a tensor that is released comes from the file again; its neighbours keep what was done to them", () => {
  w.scope(() => {
    const path = fresh();
    // no multiple of a page: each shares one with the next
    const parts = { a: w.ones([1500]), b: w.ones([5000]), c: w.ones([700]) };
    w.saveSafetensors(path, parts);
    using c = w.openSafetensors(path);
    const [before, after] = [c.get("a").mul_(2), c.get("c").mul_(3)];
    // the pages of b that it shares with nobody
    const [page, float] = [4096, 4];
    const inner = (b: w.Tensor): w.Tensor => b.narrow(0, page / float, 5000 - (2 * page) / float);
    for (let turn = 0; turn < 2; turn++) {
      c.prefetch("b");
      const b = c.get("b");
      expect(inner(b).mean().item()).toBe(1);
      b.mul_(4);
      b.dispose();
      c.release("b");
      expect(before.sum().item()).toBe(3000);
      expect(after.sum().item()).toBe(2100);
    }
    expect(code(() => c.release("z"))).toBe("checkpoint_mismatch");
  });
});

describe("what is refused", () => {
  const two = (a: unknown, b: unknown) => JSON.stringify({ a, b });
  const cases: [string, () => string, string][] = [
    ["a file that does not exist", () => "/nonexistent", "checkpoint_unreadable"],
    ["a folder", () => folder, "checkpoint_unreadable"],
    ["an empty file", () => empty(), "checkpoint_truncated"],
    ["a header longer than the file", () => file("{}", 0, 100n), "checkpoint_truncated"],
    ["a header over the limit", () => file("{}", 0, 2n ** 60n), "checkpoint_invalid"],
    ["an empty header", () => file(""), "checkpoint_invalid"],
    ["not JSON", () => file("{a"), "checkpoint_invalid"],
    ["an array", () => file("[]"), "checkpoint_invalid"],
    ["leading space", () => file(" {}"), "checkpoint_invalid"],
    ["trailing text", () => file("{}x"), "checkpoint_invalid"],
    ["bad UTF-8", () => file(Uint8Array.of(0x7b, 0x22, 0xff, 0x22)), "checkpoint_invalid"],
    ["an unknown dtype", () => file(JSON.stringify({ a: entry("Q4", [1], [0, 1]) }), 1), "checkpoint_invalid"],
    [
      "a dtype from a prototype",
      () => file(JSON.stringify({ a: entry("toString", [1], [0, 1]) }), 1),
      "checkpoint_invalid",
    ],
    ["a wrong length", () => file(JSON.stringify({ a: entry("F32", [2], [0, 4]) }), 4), "checkpoint_invalid"],
    [
      "an overflowing shape",
      () => file(JSON.stringify({ a: entry("F32", [2 ** 30, 2 ** 30, 2 ** 30], [0, 0]) })),
      "checkpoint_invalid",
    ],
    ["a negative size", () => file(JSON.stringify({ a: entry("F32", [-1], [0, 4]) }), 4), "checkpoint_invalid"],
    ["a fraction", () => file('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', 4), "checkpoint_invalid"],
    [
      "an extra field",
      () => file(JSON.stringify({ a: { ...entry("U8", [1], [0, 1]), x: 1 } }), 1),
      "checkpoint_invalid",
    ],
    ["a hole", () => file(two(entry("U8", [1], [0, 1]), entry("U8", [1], [2, 3])), 3), "checkpoint_invalid"],
    ["an overlap", () => file(two(entry("U8", [2], [0, 2]), entry("U8", [2], [1, 3])), 3), "checkpoint_invalid"],
    [
      "data beyond the last tensor",
      () => file(JSON.stringify({ a: entry("U8", [1], [0, 1]) }), 2),
      "checkpoint_invalid",
    ],
    ["missing data", () => file(JSON.stringify({ a: entry("U8", [9], [0, 9]) }), 3), "checkpoint_truncated"],
    [
      "equal keys",
      () =>
        file(
          '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
          1,
        ),
      "checkpoint_invalid",
    ],
    [
      "equal keys, one escaped",
      () =>
        file(
          '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        ),
      "checkpoint_invalid",
    ],
    ["metadata that is no text", () => file('{"__metadata__":{"a":1}}'), "checkpoint_invalid"],
    ["deep nesting", () => file(`{"a":${"[".repeat(100000)}`), "checkpoint_invalid"],
  ];
  test.each(cases)("%s", (_, make, want) => {
    expect(code(() => w.openSafetensors(make()))).toBe(want);
  });
  test("every truncation and every flipped bit of the header: a typed error, or a file that reads", () => {
    const path = sample();
    const whole = new Uint8Array(readFileSync(path));
    const length = Number(new DataView(whole.buffer).getBigUint64(0, true));
    for (let n = 0; n < whole.length; n++) {
      const cut = fresh();
      writeFileSync(cut, whole.subarray(0, n));
      expect(["checkpoint_truncated", "checkpoint_invalid"]).toContain(code(() => w.openSafetensors(cut)));
    }
    const header = whole.slice(8, 8 + length);
    for (let bit = 0; bit < length * 8; bit++) {
      header[bit >> 3] = (header[bit >> 3] as number) ^ (1 << (bit & 7));
      const got = code(() => parseHeader(header, whole.length - 8 - length));
      expect(["none", "checkpoint_invalid", "checkpoint_truncated"]).toContain(got);
      header[bit >> 3] = (header[bit >> 3] as number) ^ (1 << (bit & 7));
    }
  });
  test("a file that shrinks after it was opened", () => {
    const path = sample();
    using f = w.openSafetensors(path);
    truncateSync(path, 40);
    expect(code(() => f.get("b"))).toBe("checkpoint_truncated");
  });
});

describe("sharded checkpoints", () => {
  const dir = mkdtempSync(join(tmpdir(), "waver-shards-"));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  const index = (map: Record<string, unknown>) => {
    const path = join(dir, "model.safetensors.index.json");
    writeFileSync(path, JSON.stringify({ weight_map: map }));
    return path;
  };
  test("the index joins its files; the folder finds the index", () => {
    w.scope(() => {
      w.saveSafetensors(join(dir, "m-1.safetensors"), { x: w.tensor([1]) });
      w.saveSafetensors(join(dir, "m-2.safetensors"), { y: w.tensor([2]) });
      index({ x: "m-1.safetensors", y: "m-2.safetensors" });
      using c = w.openCheckpoint(dir);
      expect(c.keys).toEqual(["x", "y"]);
      expect([c.get("x").item(), c.get("y").item()]).toEqual([1, 2]);
      expect(code(() => c.get("z"))).toBe("checkpoint_mismatch");
    });
  });
  test.each([
    ["a path out of the folder", { x: "../m.safetensors" }],
    ["not a name", { x: 5 }],
    ["a tensor that its file lacks", { q: "m-1.safetensors" }],
    ["nothing", {}],
  ])("refused: %s", (_, map) => {
    expect(code(() => w.openCheckpoint(index(map)))).toBe("checkpoint_invalid");
  });
  test("several files without an index are a question, not a guess", () => {
    rmSync(join(dir, "model.safetensors.index.json"));
    expect(code(() => w.openCheckpoint(dir))).toBe("checkpoint_unreadable");
    symlinkSync("m-1.safetensors", join(dir, "link.safetensors"));
    using c = w.openCheckpoint(join(dir, "link.safetensors"));
    expect(c.keys).toEqual(["x"]);
  });
});
