import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { Units } from "./unit.ts";

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
