import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodePng } from "../generation/png.ts";
import { Uploads } from "./uploads.ts";

const png = (shade: number): Uint8Array => encodePng(new Uint8Array(3).fill(shade), 1, 1, String(shade));

test("pictures are kept by content, private, and neither for ever nor without end", () => {
  const home = mkdtempSync(join(tmpdir(), "waver-uploads-"));
  try {
    const uploads = new Uploads(home);
    const first = uploads.picture(png(0), "image");
    expect(uploads.picture(`data:image/png;base64,${Buffer.from(png(0)).toString("base64")}`, "image")).toBe(first);
    expect(first).toEndWith(".png");
    expect([statSync(first).mode & 0o777, statSync(join(home, "uploads")).mode & 0o777]).toEqual([0o600, 0o700]);
    utimesSync(first, 1, 1);
    const second = uploads.picture(png(1), "image");
    expect([existsSync(first), existsSync(second)]).toEqual([false, true]);
    for (let i = 2; i < 256; i++) uploads.picture(png(i), "image");
    expect(readdirSync(join(home, "uploads")).length).toBe(200);
    expect(existsSync(uploads.picture(png(255), "image"))).toBe(true);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
});

test("what is no picture is refused by its first bytes, whatever it says it is", () => {
  const home = mkdtempSync(join(tmpdir(), "waver-uploads-"));
  try {
    const uploads = new Uploads(home);
    const text = Buffer.from("<svg onload=alert(1)>");
    for (const wrong of [
      text,
      new Uint8Array(),
      png(1).subarray(1),
      `data:image/png;base64,${text.toString("base64")}`,
    ])
      expect(() => uploads.picture(wrong, "field")).toThrow("field is not an image");
    for (const wrong of [
      "",
      "https://x/y.png",
      "file:///etc/passwd",
      "data:image/png,abc",
      "data:image/png;base64,%%%",
    ])
      expect(() => uploads.picture(wrong, "field")).toThrow("field is not a data URL");
    expect(readdirSync(join(home, "uploads"))).toEqual([]);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
});
