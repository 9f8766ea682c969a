import { expect, test } from "bun:test";
import { encodePng } from "../daemon/generation/png.ts";
import { pictureLines, pictureOf, showsPictures } from "./preview.ts";
import { createRenderer } from "./render.ts";

/** Left half red, right half blue; the lower half darker. */
const pixels = (width: number, height: number): Uint8Array =>
  Uint8Array.from({ length: 3 * width * height }, (_, i) => {
    const [x, y, channel] = [Math.floor(i / 3) % width, Math.floor(i / (3 * width)), i % 3];
    const wanted = x < width / 2 ? 0 : 2;
    return channel === wanted ? (y < height / 2 ? 255 : 100) : 0;
  });

test("a preview becomes half blocks of its colours", () => {
  const picture = pictureOf(encodePng(pixels(8, 8), 8, 8));
  expect(picture?.pixels).toEqual(pixels(8, 8));
  const lines = pictureLines(picture as NonNullable<typeof picture>, 4, 2);
  expect(lines.length).toBe(2);
  for (const line of lines) expect(Bun.stringWidth(line)).toBe(4);
  expect(lines[0]).toStartWith("\u001b[38;2;255;0;0;48;2;255;0;0m▀");
  expect(lines[1]).toContain("38;2;0;0;100;48;2;0;0;100m▀");
  expect(lines.every((line) => line.endsWith("\u001b[0m"))).toBe(true);
});

test("the sides stay in proportion", () => {
  const wide = pictureOf(encodePng(pixels(64, 16), 64, 16)) as NonNullable<ReturnType<typeof pictureOf>>;
  expect(pictureLines(wide, 32, 14).length).toBe(4);
  const tall = pictureOf(encodePng(pixels(16, 64), 16, 64)) as NonNullable<ReturnType<typeof pictureOf>>;
  expect(pictureLines(tall, 48, 14).map((line) => Bun.stringWidth(line))).toEqual(Array.from({ length: 14 }, () => 7));
});

test("what is no picture of ours is none", () => {
  const png = encodePng(pixels(8, 8), 8, 8);
  for (const wrong of [
    new Uint8Array(),
    png.subarray(0, 40),
    Buffer.from("<svg/>"),
    Uint8Array.from(png, (b, i) => (i === 20 ? 0xff : b)),
  ])
    expect(pictureOf(wrong)).toBeNull();
});

test("is shown where the terminal has true colour, and nowhere else", () => {
  const before = { ...process.env };
  const renderer = (tty: boolean, env: Record<string, string>): ReturnType<typeof createRenderer> => {
    Object.assign(process.env, { TERM: "xterm", LANG: "C.UTF-8", LC_ALL: "C.UTF-8", NO_COLOR: "", COLORTERM: "" }, env);
    return createRenderer({ json: false, verbose: false, out: { isTTY: tty, columns: 80, write: () => undefined } });
  };
  try {
    const there = renderer(true, { COLORTERM: "truecolor" });
    expect(there.picture).toBeDefined();
    there.close();
    for (const [tty, env] of [
      [true, {}],
      [false, { COLORTERM: "truecolor" }],
      [true, { COLORTERM: "truecolor", NO_COLOR: "1" }],
    ] as const) {
      const other = renderer(tty, env);
      expect(other.picture).toBeUndefined();
      other.close();
    }
  } finally {
    for (const key of ["TERM", "LANG", "LC_ALL", "NO_COLOR", "COLORTERM"]) {
      if (before[key] === undefined) delete process.env[key];
      else process.env[key] = before[key];
    }
  }
  expect(showsPictures({})).toBe(false);
});
