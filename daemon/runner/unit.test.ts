import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { CodeUsed, Units } from "./unit.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "waver-units-"));
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

const Result = z.object({ n: z.number() });

test("a unit is done once", async () => {
  let runs = 0;
  const work = async (): Promise<{ n: number }> => ({ n: ++runs });
  expect(await new Units(folder).once("clip 1", Result, work)).toEqual({ n: 1 });
  expect(await new Units(folder).once("clip 1", Result, work)).toEqual({ n: 1 });
  expect(await new Units(folder).once("clip 2", Result, work)).toEqual({ n: 2 });
});

test("a unit is done again when code that it came from has changed, and when what it followed has", async () => {
  let digests: Record<string, string> = { op: "1", a: "1", b: "1" };
  let runs = 0;
  /** One attempt: a unit of `a`, then one of `b`; what `a` gave is in the mind of the operation. */
  const attempt = async (): Promise<number[]> => {
    const code = new CodeUsed((part) => digests[part] ?? null);
    code.add("op");
    const units = new Units(folder, code);
    const done = async (part: string): Promise<number> => {
      const { n } = await units.once(part, Result, async () => {
        code.add(part);
        return { n: ++runs };
      });
      return n;
    };
    return [await done("a"), await done("b")];
  };
  expect(await attempt()).toEqual([1, 2]);
  digests = { ...digests, unrelated: "2" };
  expect(await attempt()).toEqual([1, 2]);
  digests = { ...digests, b: "2" };
  expect(await attempt()).toEqual([1, 3]);
  // `a` was only found in the last attempt, yet the unit after it followed from it.
  digests = { ...digests, a: "2" };
  expect(await attempt()).toEqual([4, 5]);
  digests = { ...digests, op: "2" };
  expect(await attempt()).toEqual([6, 7]);
  digests = { op: "2", a: "2" };
  expect(await attempt()).toEqual([6, 8]);
});

test("equal keys at once share the work", async () => {
  let runs = 0;
  const units = new Units(folder);
  const work = async (): Promise<{ n: number }> => {
    await Bun.sleep(5);
    return { n: ++runs };
  };
  expect(await Promise.all([units.once("a", Result, work), units.once("a", Result, work)])).toEqual([
    { n: 1 },
    { n: 1 },
  ]);
});

test("a damaged, foreign or outdated result is computed again", async () => {
  await new Units(folder).once("a", Result, async () => ({ n: 1 }));
  const [name] = await readdir(join(folder, "units"));
  for (const text of [
    "",
    '{"key":"a","value":{"n"',
    '{"key":"b","value":{"n":5}}',
    '{"key":"a","value":{"n":"5"}}',
    "null",
  ]) {
    await writeFile(join(folder, "units", name as string), text);
    expect(await new Units(folder).once("a", Result, async () => ({ n: 2 }))).toEqual({ n: 2 });
  }
});

test("a result that is no plain data fails at once, and leaves nothing", async () => {
  const bytes = z.object({ data: z.instanceof(Uint8Array) });
  await expect(new Units(folder).once("a", bytes, async () => ({ data: new Uint8Array(2) }))).rejects.toMatchObject({
    code: "internal",
  });
  expect(await readdir(folder)).toEqual([]);
});

test("a killed process finds its finished units, and only those", async () => {
  const program = `
    import { Units } from ${JSON.stringify(join(import.meta.dir, "unit.ts"))};
    import { z } from "zod";
    const units = new Units(${JSON.stringify(folder)});
    for (let i = 0; ; i++) {
      await units.once("clip " + i, z.object({ i: z.number() }), async () => ({ i }));
      process.stdout.write(i + "\\n");
    }`;
  const file = join(import.meta.dir, `unit-kill-${process.pid}.ts`);
  await writeFile(file, program);
  try {
    const child = Bun.spawn([process.execPath, file], { stdout: "pipe", stderr: "inherit" });
    let said = "";
    for await (const chunk of child.stdout) {
      said += new TextDecoder().decode(chunk);
      if (said.split("\n").length > 20) child.kill("SIGKILL");
    }
    const finished = said.trim().split("\n").length;
    const units = new Units(folder);
    for (let i = 0; i < finished; i++)
      await units.once(`clip ${i}`, z.object({ i: z.number() }), async () => {
        throw new Error(`clip ${i} was lost`);
      });
  } finally {
    await rm(file);
  }
});
