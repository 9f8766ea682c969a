import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileStamp } from "./stamp.ts";

test("a stamp follows the files that options name, and nothing else", async () => {
  const folder = mkdtempSync(join(tmpdir(), "waver-stamp-"));
  try {
    const [vae, tokenizer] = [join(folder, "vae"), join(folder, "tokenizer.json")];
    mkdirSync(vae);
    writeFileSync(join(vae, "model.safetensors"), "12345");
    writeFileSync(tokenizer, "{}");
    const options = { path: vae, dtype: "float32", beside: { tokenizer, none: null }, lora: [join(folder, "not yet")] };
    const stamps = [await fileStamp(options)];
    expect(await fileStamp({ ...options, dtype: "bfloat16" })).toBe(stamps[0] as string);
    const changes = [
      // as a checkpoint is replaced: another file of the same name and length
      () => {
        writeFileSync(join(folder, "new"), "54321");
        renameSync(join(folder, "new"), join(vae, "model.safetensors"));
      },
      () => writeFileSync(join(vae, "config.json"), "{}"),
      () => writeFileSync(tokenizer, "{ }"),
      () => writeFileSync(join(folder, "not yet"), "1"),
      () => rmSync(vae, { recursive: true }),
    ];
    for (const change of changes) {
      change();
      stamps.push(await fileStamp(options));
    }
    expect(new Set(stamps).size).toBe(changes.length + 1);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
