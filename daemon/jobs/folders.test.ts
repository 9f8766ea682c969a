import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WorkFolders } from "./folders.ts";

test("what a job keeps for those who watch it is a small file of its own, or nothing", async () => {
  const home = mkdtempSync(join(tmpdir(), "waver-folders-"));
  try {
    const folders = new WorkFolders(home);
    const folder = folders.open("key");
    const read = (): Promise<Uint8Array | null> => folders.read("key", "preview.png", 10);
    expect(await read()).toBeNull();
    writeFileSync(join(folder, "preview.png"), "0123456789");
    expect(Buffer.from((await read()) ?? []).toString()).toBe("0123456789");
    writeFileSync(join(folder, "preview.png"), "0123456789a");
    expect(await read()).toBeNull();
    rmSync(join(folder, "preview.png"));
    writeFileSync(join(home, "secret"), "secret");
    symlinkSync(join(home, "secret"), join(folder, "preview.png"));
    expect(await read()).toBeNull();
    expect(await folders.read("gone", "preview.png", 10)).toBeNull();
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
});
