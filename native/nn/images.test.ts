import { describe, expect, test } from "bun:test";
import * as w from "../index.ts";

w.setThreads(1);
const plain: w.ImageSettings = { resize: null, resample: "bicubic", crop: null, rescale: null, normalize: null };
/** Grey levels that differ in every place and channel. */
const levels = (B: number, H: number, W: number): w.Tensor =>
  w.scope(() =>
    w.fromBytes(
      Uint8Array.from({ length: B * 3 * H * W }, (_, i) => (i * 37 + (i >> 3) * 11) % 256),
      "uint8",
      [B, 3, H, W],
    ),
  );

/** Keys' cubic (a = -0.5), widened by the scale: PIL's and torch's antialiased bicubic; a row of grey levels gives another. */
function resizedRow(row: readonly number[], size: number): number[] {
  const scale = row.length / size;
  const wide = Math.max(1, scale);
  const cubic = (t: number): number => {
    const x = Math.abs(t);
    if (x < 1) return 1.5 * x ** 3 - 2.5 * x ** 2 + 1;
    return x < 2 ? -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2 : 0;
  };
  return Array.from({ length: size }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const weights = row.map((_, j) => cubic((j + 0.5 - centre) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    const value = row.reduce((all, level, j) => all + (level * (weights[j] as number)) / sum, 0);
    return Math.min(255, Math.max(0, Math.round(value)));
  });
}

describe("preprocessImages", () => {
  test.each([
    [40, 60, 28],
    [61, 45, 28],
    [17, 23, 28],
  ])("%i x %i: the shorter side becomes %i, antialiased, in whole grey levels", (H, W, edge) => {
    w.scope(() => {
      const image = levels(1, H, W);
      const long = Math.floor((edge * Math.max(H, W)) / Math.min(H, W));
      const [h, width] = H <= W ? [edge, long] : [long, edge];
      const got = w.preprocessImages(image, { ...plain, resize: { shortestEdge: edge } });
      expect(got.shape).toEqual([1, 3, h, width]);
      const source = image.select(0, 0).select(0, 0).float().toNumbers();
      const rows = Array.from({ length: H }, (_, y) => resizedRow(source.slice(y * W, (y + 1) * W), width));
      const columns = Array.from({ length: width }, (_, x) =>
        resizedRow(
          rows.map((row) => row[x] as number),
          h,
        ),
      );
      const values = got.select(0, 0).select(0, 0).toNumbers();
      for (let y = 0; y < h; y++)
        for (let x = 0; x < width; x++) {
          const want = (columns[x] as number[])[y] as number;
          const value = values[y * width + x] as number;
          // torch's weights have 16 bits: where a value is halfway between two levels it may take the other one
          expect([y, x, Math.abs(value - want) <= 1]).toEqual([y, x, true]);
        }
    });
  });

  test("cuts the middle, and fills what is missing with black", () => {
    w.scope(() => {
      const image = levels(2, 5, 8);
      const cut = w.preprocessImages(image, { ...plain, crop: { height: 3, width: 5 } });
      // (8 - 5) / 2 is rounded down
      expect(cut.toNumbers()).toEqual(image.narrow(2, 1, 3).narrow(3, 1, 5).float().toNumbers());
      const grown = w.preprocessImages(image, { ...plain, crop: { height: 8, width: 4 } });
      expect(grown.shape).toEqual([2, 3, 8, 4]);
      expect(grown.narrow(2, 1, 5).toNumbers()).toEqual(image.narrow(3, 2, 4).float().toNumbers());
      expect(grown.narrow(2, 0, 1).abs().sum().item() + grown.narrow(2, 6, 2).abs().sum().item()).toBe(0);
    });
  });

  test("scales and normalises a channel at a time", () => {
    w.scope(() => {
      const image = levels(1, 2, 2);
      const got = w
        .preprocessImages(image, {
          ...plain,
          rescale: 1 / 255,
          normalize: { mean: [0.1, 0.2, 0.3], std: [0.5, 0.25, 2] },
        })
        .toNumbers();
      const want = image.toNumbers().map((value, i) => {
        const c = Math.floor(i / 4);
        return (value / 255 - ([0.1, 0.2, 0.3][c] as number)) / ([0.5, 0.25, 2][c] as number);
      });
      for (const [i, value] of got.entries()) expect(value).toBeCloseTo(want[i] as number, 5);
      const scaled = w.preprocessImages(image, { ...plain, rescale: 0.5 });
      expect(scaled.toNumbers()).toEqual(image.toNumbers().map((value) => value / 2));
    });
  });

  test("takes whole grey levels only", () => {
    w.scope(() =>
      expect(() => w.preprocessImages(w.zeros([1, 3, 4, 4]), plain)).toThrow(/uint8 \[B C H W\], not float32/),
    );
  });
});
