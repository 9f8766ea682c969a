import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomFillSync } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WaverError } from "../errors.ts";
import { Digest, type Lineage } from "../types.ts";
import { openStore } from "./store.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "waver-store-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const record = (kind: string, inputs: Digest[] = []): Omit<Lineage, "digest" | "bytes" | "createdAt"> => ({
  kind,
  inputs: inputs.map((digest) => ({ role: "source", digest })),
  by: { operation: "test", version: "0.1.0" },
  options: {},
});

function tree(name: string, files: Readonly<Record<string, string>>): string {
  const root = join(folder, name);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

describe("local store", () => {
  test("a file is found by the SHA-256 of its bytes and published once", async () => {
    const store = await openStore(join(folder, "s1"));
    const path = tree("file", { "a.txt": "hello" });
    const digest = await store.publish(join(path, "a.txt"), record("note"));
    expect(digest as string).toBe("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    expect(await Bun.file(await store.path(digest)).text()).toBe("hello");
    expect(await store.publish(join(path, "a.txt"), record("other"))).toBe(digest);
    expect(await store.lineage(digest)).toMatchObject({ kind: "note", bytes: 5 });
    expect(await store.verify(digest)).toBe(true);
    expect(existsSync(join(path, "a.txt"))).toBe(true);
  });

  test("a folder's digest depends on its files alone", async () => {
    const store = await openStore(join(folder, "s2"));
    const files = { "model.json": "{}", "part/1.bin": "one", "part/2.bin": "two" };
    const a = await store.publish(tree("tree-a", files), record("checkpoint"));
    const b = await store.publish(tree("tree-b", files), record("checkpoint"), { move: true });
    expect(b).toBe(a);
    expect(existsSync(join(folder, "tree-b"))).toBe(false);
    expect(await store.publish(tree("tree-c", { ...files, "part/2.bin": "TWO" }), record("checkpoint"))).not.toBe(a);
    // What comes out of the store can go in again.
    expect(await store.publish(await store.path(a), record("checkpoint"))).toBe(a);
    expect((await store.lineage(a))?.bytes).toBe(8);
  });

  test("damage is seen", async () => {
    const store = await openStore(join(folder, "s3"));
    const digest = await store.publish(tree("damage", { "a.bin": "aaaa", "b.bin": "bbbb" }), record("set"));
    const path = await store.path(digest);
    const harm = async (change: () => void, repair: () => void): Promise<void> => {
      change();
      expect(await store.verify(digest)).toBe(false);
      repair();
      expect(await store.verify(digest)).toBe(true);
    };
    chmodSync(join(path, "a.bin"), 0o644);
    await harm(
      () => writeFileSync(join(path, "a.bin"), "aaab"),
      () => writeFileSync(join(path, "a.bin"), "aaaa"),
    );
    await harm(
      () => writeFileSync(join(path, "c.bin"), ""),
      () => rmSync(join(path, "c.bin")),
    );
    await harm(
      () => rmSync(join(path, "a.bin")),
      () => writeFileSync(join(path, "a.bin"), "aaaa"),
    );
  });

  test("children and list follow the records", async () => {
    const store = await openStore(join(folder, "s4"));
    const source = await store.publish(join(tree("l", { "s.txt": "source" }), "s.txt"), record("source"));
    const set = await store.publish(join(tree("l", { "t.txt": "set" }), "t.txt"), record("set", [source]));
    const model = await store.publish(
      join(tree("l", { "m.txt": "model" }), "m.txt"),
      record("checkpoint", [set, source]),
    );
    expect(new Set(await store.children(source))).toEqual(new Set([set, model]));
    expect(await store.children(model)).toEqual([]);
    const kinds = async (kind?: string): Promise<string[]> => {
      const found: string[] = [];
      for await (const each of store.list(kind)) found.push(each.kind);
      return found.sort();
    };
    expect(await kinds()).toEqual(["checkpoint", "set", "source"]);
    expect(await kinds("set")).toEqual(["set"]);
  });

  test("links, missing paths and unknown digests are typed errors and leave nothing", async () => {
    const root = join(folder, "s5");
    const store = await openStore(root);
    const linked = tree("linked", { "a.txt": "a" });
    symlinkSync("/etc/hostname", join(linked, "b.txt"));
    const codes: string[] = [];
    const nothing = Digest.parse(`sha256:${"0".repeat(64)}`);
    for (const work of [
      () => store.publish(linked, record("x")),
      () => store.publish(join(folder, "none"), record("x")),
      () => store.path(nothing),
    ]) {
      codes.push(
        await work().then(
          () => "none",
          (error: unknown) => (error as WaverError).code,
        ),
      );
    }
    expect(codes).toEqual(["invalid_input", "not_found", "not_found"]);
    expect(readdirSync(root).filter((name) => name.startsWith(".tmp"))).toEqual([]);
  });

  test("two processes may publish the same content at once", async () => {
    const path = tree(
      "race",
      Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`${i}.txt`, "x".repeat(1000 + i)])),
    );
    const stores = await Promise.all(Array.from({ length: 4 }, () => openStore(join(folder, "s6"))));
    const digests = await Promise.all(stores.map((store) => store.publish(path, record("set"))));
    expect(new Set(digests).size).toBe(1);
    expect(await stores[0]?.verify(digests[0] as Digest)).toBe(true);
  });

  test("kill -9 at any moment leaves whole artefacts only", async () => {
    const root = join(folder, "s7");
    const source = tree(
      "big",
      Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`part-${i}.bin`, "y".repeat(40_000 + i)])),
    );
    const program = `
      import { openStore } from ${JSON.stringify(join(import.meta.dir, "store.ts"))};
      import { writeFileSync } from "node:fs";
      const store = await openStore(${JSON.stringify(root)});
      for (let i = 0; ; i++) {
        writeFileSync(${JSON.stringify(join(source, "part-0.bin"))}, String(process.pid) + " " + i);
        const digest = await store.publish(${JSON.stringify(source)}, { kind: "set", inputs: [], by: { operation: "test", version: "1" }, options: {} });
        console.log(digest);
      }`;
    const acknowledged: string[] = [];
    for (let round = 0; round < 12; round++) {
      const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "ignore" });
      const reader = child.stdout.getReader();
      // Each round dies a little later after its first publication.
      acknowledged.push(
        ...new TextDecoder()
          .decode((await reader.read()).value)
          .trim()
          .split("\n"),
      );
      await Bun.sleep(round * 3);
      child.kill("SIGKILL");
      for (let next = await reader.read(); !next.done; next = await reader.read())
        acknowledged.push(
          ...new TextDecoder()
            .decode(next.value)
            .split("\n")
            .filter((line) => line.length === 71),
        );
      await child.exited;
    }
    const store = await openStore(root);
    expect(readdirSync(root).filter((name) => name.startsWith(".tmp"))).toEqual([]);
    const listed = new Set<string>();
    for await (const lineage of store.list()) {
      listed.add(lineage.digest);
      expect(await store.verify(lineage.digest)).toBe(true);
    }
    expect(acknowledged.filter((digest) => !listed.has(digest))).toEqual([]);
    expect(listed.size).toBeGreaterThanOrEqual(12);
  });

  test("a full disk is disk_full and leaves nothing half", async () => {
    const small = join(folder, "small");
    mkdirSync(small);
    if (
      process.platform !== "linux" ||
      Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small]).exitCode !== 0
    ) {
      console.log("skipped: a small file system can be mounted by root only");
      return;
    }
    try {
      const store = await openStore(join(small, "store"));
      writeFileSync(join(folder, "large.bin"), randomFillSync(new Uint8Array(2 << 20)));
      const error = await store.publish(join(folder, "large.bin"), record("x")).then(
        () => null,
        (each: unknown) => each as WaverError,
      );
      expect(error).toBeInstanceOf(WaverError);
      expect(error?.code).toBe("disk_full");
      expect(readdirSync(join(small, "store")).sort()).toEqual(["children", "lineage", "objects"]);
    } finally {
      Bun.spawnSync(["umount", small]);
    }
  });
});
