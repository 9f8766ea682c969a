import { expect, test } from "bun:test";
import { allClose, full, Generator, rand, scope, setThreads, stack } from "../../native/index.ts";
import { degradePixels, halveChroma } from "./degrade.ts";

setThreads(1);

test("halving colour leaves luma and grey pictures as they were", () =>
  scope(() => {
    using generator = new Generator(1);
    const pixels = rand([2, 3, 8, 12], { generator });
    const luma = (x: typeof pixels) => {
      const [r, g, b] = x.unbind(-3) as [typeof x, typeof x, typeof x];
      return r.mul(0.299).add(g.mul(0.587)).add(b.mul(0.114));
    };
    expect(allClose(luma(halveChroma(pixels)), luma(pixels), { atol: 1e-6 })).toBe(true);
    const grey = pixels.narrow(1, 0, 1).expand([2, 3, 8, 12]);
    expect(allClose(halveChroma(grey), grey, { atol: 1e-6 })).toBe(true);
    expect(allClose(halveChroma(pixels), pixels, { atol: 0.05 })).toBe(false);
  }));

test("a picture of one colour survives every degradation", () =>
  scope(() => {
    const red = stack([full([4, 8, 8], 0.9), full([4, 8, 8], -0.4), full([4, 8, 8], 0.1)], 1);
    const { up } = degradePixels(red, 2, "bicubic", { chroma: true });
    expect(allClose(up, red, { atol: 1e-5 })).toBe(true);
  }));
