import { afterAll, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint, scope } from "../../native/index.ts";
import { runOperation, testContext } from "../../test/support/context.ts";
import { convert } from "./convert.ts";

const folder = mkdtempSync(join(tmpdir(), "waver-convert-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const fixture = (name: string): string => join(import.meta.dir, "../../test/fixtures/pth", name);

test.each(["legacy.pth", "zip.pth"])("%s becomes a safetensors file beside it", async (name) => {
  await using ctx = await testContext({ plugins: [] });
  const file = join(folder, name);
  copyFileSync(fixture(name), file);
  const made = (await runOperation(convert, { file }, ctx)) as { path: string; numTensors: number };
  expect(made.path).toBe(file.replace(".pth", ".safetensors"));
  using opened = openCheckpoint(made.path);
  expect(opened.keys).toHaveLength(made.numTensors);
  scope(() => {
    for (const key of opened.keys) expect(opened.get(key).shape).toEqual(opened.info(key).shape);
  });
  // an attempt after a crash finds it done
  expect(await runOperation(convert, { file }, ctx)).toEqual(made);
  await using another = await testContext({ plugins: [] });
  await expect(runOperation(convert, { file }, another)).rejects.toThrow(/exists already/);
});

test("what is no checkpoint is refused, and nothing is left", async () => {
  await using ctx = await testContext({ plugins: [] });
  const file = join(folder, "bad.bin");
  writeFileSync(file, "no checkpoint at all");
  await expect(runOperation(convert, { file }, ctx)).rejects.toMatchObject({ code: "checkpoint_invalid" });
  expect([existsSync(join(folder, "bad.safetensors")), existsSync(join(folder, "bad.safetensors.partial"))]).toEqual([
    false,
    false,
  ]);
  await expect(runOperation(convert, { file: join(folder, "none.pth") }, ctx)).rejects.toMatchObject({
    code: "checkpoint_missing",
  });
  await expect(runOperation(convert, { file, output: join(folder, "x.bin") }, ctx)).rejects.toThrow(
    /end in .safetensors/,
  );
});

test("whoever opens such a file is told of the converter", () => {
  const alone = mkdtempSync(join(folder, "model-"));
  copyFileSync(fixture("zip.pth"), join(alone, "pytorch_model.bin"));
  for (const path of [alone, join(alone, "pytorch_model.bin")]) {
    let hint = "";
    try {
      openCheckpoint(path)[Symbol.dispose]();
    } catch (error) {
      hint = (error as { hint: string }).hint;
    }
    expect(hint).toContain(`waver convert ${join(alone, "pytorch_model.bin")}`);
  }
});
