import { describe, expect, test } from "bun:test";
import type { FrameBatch } from "../types.ts";
import { measure } from "./measure.ts";

const W = 64;
const H = 36;
type Pixel = (x: number, y: number, t: number) => readonly [number, number, number];

async function* film(pixel: Pixel, count = 4): AsyncGenerator<FrameBatch> {
  for (let t = 0; t < count; t++) {
    const data = new Uint8Array(W * H * 3);
    for (let y = 0, i = 0; y < H; y++) for (let x = 0; x < W; x++, i += 3) data.set(pixel(x, y, t), i);
    yield { data, count: 1, width: W, height: H, format: "rgb24", times: [t / 4] };
  }
}

const grey = (value: number) => [value, value, value] as const;
const board: Pixel = (x, y) => grey(((x >> 2) + (y >> 2)) & 1 ? 200 : 60);

describe("visual measures", () => {
  test("sharp beats soft, and contrast and brightness are what they say", async () => {
    const sharp = await measure(film(board));
    const soft = await measure(film((x, y) => grey(130 + 70 * Math.sin(x / 2.5) * Math.sin(y / 2.5))));
    expect(sharp["sharpness"] as number).toBeGreaterThan(4 * (soft["sharpness"] as number));
    expect(sharp["contrast"]).toBeCloseTo(70 / 255, 2);
    expect(sharp["brightness"]).toBeCloseTo(130 / 255, 2);
  });

  test("dark, bright and saturation are shares", async () => {
    const half = await measure(film((x) => grey(x < W / 2 ? 2 : 250)));
    expect([half["dark"], half["bright"], half["saturation"]]).toEqual([0.5, 0.5, 0]);
    expect((await measure(film(() => [200, 0, 0])))["saturation"]).toBe(1);
  });

  test("black borders are seen, a black film has none", async () => {
    const boxed = await measure(film((x, y, t) => (y < 6 || y >= H - 6 ? grey(3) : board(x, y, t))));
    expect(boxed["border"]).toBeCloseTo(12 / 36, 5);
    expect((await measure(film(board)))["border"]).toBe(0);
    expect(await measure(film(() => grey(0)))).toMatchObject({ border: 0, dark: 1 });
  });

  test("a frozen film is still, a moving one is not, one frame counts as still", async () => {
    expect((await measure(film(board)))["still"]).toBe(1);
    const moving = await measure(film((x, y, t) => board(x + t, y, t)));
    expect(moving["still"]).toBe(0);
    expect(moving["change"]).toBeGreaterThan(0.1);
    expect((await measure(film(board, 1)))["still"]).toBe(1);
    const once = await measure(film((x, y, t) => board(x + (t > 2 ? 2 : 0), y, t), 5));
    expect(once["still"]).toBeCloseTo(0.75, 5);
  });
});
