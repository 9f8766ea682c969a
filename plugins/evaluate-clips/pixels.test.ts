import { describe, expect, test } from "bun:test";
import { chance, match, matchCentred } from "./nearest.ts";
import { motion, type Pixels, psnr, sharpness, ssim } from "./pixels.ts";

/** Rows of waves as 8-bit RGB, the input of the reference below. */
function waves(height: number, width: number, value: (y: number, x: number, c: number) => number): Uint8Array {
  const out = new Uint8Array(height * width * 3);
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++, i++) out[i] = Math.floor(value(y, x, c));
  return out;
}
const a = waves(24, 32, (y, x, c) => 127.5 + 127 * Math.sin(0.3 * x + 0.2 * y + c));
const b = waves(24, 32, (y, x, c) => 127.5 + 100 * Math.sin(0.3 * x + 0.22 * y + c + 0.1));
const clip = (frames: Uint8Array[], fps = 8): Pixels => ({ width: 32, height: 24, fps, frames });

describe("likeness of frames", () => {
  test("agrees with scikit-image 0.25 (gaussian weights, sigma 1.5, population covariance)", () => {
    expect(ssim(a, b, 32, 24)).toBeCloseTo(0.8549682767404946, 10);
    expect(psnr(a, b)).toBeCloseTo(17.468201308802726, 10);
  });
  test("equal frames are as alike as can be, and averages stay finite", () => {
    expect(psnr(a, a)).toBe(100);
    expect(ssim(a, a, 32, 24)).toBeCloseTo(1, 12);
  });
  test("frames of two sizes are refused", () => {
    expect(() => psnr(a, a.subarray(3))).toThrow("cannot be compared");
    expect(() => ssim(a.subarray(0, 300), b.subarray(0, 300), 10, 10)).toThrow("11 x 11");
  });
});

describe("what one clip is like", () => {
  test("a still clip does not move; the same change at twice the rate is twice the motion", () => {
    expect(motion(clip([a, a, a]))).toBe(0);
    expect(motion(clip([a, b], 16))).toBeCloseTo(2 * motion(clip([a, b], 8)), 10);
    expect(motion(clip([a]))).toBe(0);
  });
  test("a blur is less sharp than an edge", () => {
    const edge = waves(24, 32, (_y, x) => (x < 16 ? 20 : 230));
    const soft = waves(24, 32, (_y, x) => 20 + (210 * x) / 31);
    expect(sharpness(clip([edge]))).toBeGreaterThan(100 * sharpness(clip([soft])));
  });
});

describe("nearest training clip", () => {
  const item = { id: "i", video: "i.mp4", prompt: "a ball", task: "t2v" as const };
  const references = ["a boat", "a ball", "a bird"].map((caption, i) => ({
    id: String(i),
    video: `${i}.mp4`,
    caption,
  }));
  const known = [
    [1, 0],
    [0.6, 0.8],
    [0, 1],
  ].map((values) => Float32Array.from(values));
  test("is found, and whether it is the prompted one", () => {
    expect(match(item, Float32Array.from([0.6, 0.8]), references, known)).toMatchObject({
      nearest: 1,
      isPrompted: true,
      promptedRank: 1,
    });
    const other = match(item, Float32Array.from([1, 0]), references, known);
    expect(other).toMatchObject({ nearest: 0, isPrompted: false, promptedRank: 2 });
    expect(other.promptedSimilarity).toBeCloseTo(0.6, 6);
    expect(match({ ...item, prompt: "a cat" }, Float32Array.from([1, 0]), references, known).promptedRank).toBeNull();
  });
  test("what all generated clips share does not decide when both sides are centred", () => {
    const kinds = ["a boat", "a ball", "a bird", "a fish"];
    const axis = (i: number): Float32Array =>
      Float32Array.from({ length: 6 }, (_, k) => (k === i ? 1 : k === 4 ? 0.5 : 0));
    // All that was made leans the same way, towards the first training clip.
    const blurred = (i: number): Float32Array => axis(i).map((value, k) => value + (k === 0 ? 3 : 0));
    const items = kinds.map((prompt, i) => ({ ...item, id: String(i), prompt }));
    const references = kinds.map((caption, i) => ({ id: String(i), video: `${i}.mp4`, caption }));
    const [made, known] = [kinds.map((_, i) => blurred(i)), kinds.map((_, i) => axis(i))];
    expect(items.filter((each, i) => match(each, made[i] as Float32Array, references, known).isPrompted)).toHaveLength(
      1,
    );
    expect(matchCentred(items, made, references, known)?.every(({ isPrompted }) => isPrompted)).toBe(true);
    expect(matchCentred(items.slice(0, 3), made.slice(0, 3), references, known)).toBeNull();
  });
  test("chance counts every clip that bears the caption", () => {
    expect(chance([item], references)).toBeCloseTo(1 / 3, 12);
    expect(chance([item], [...references, { id: "3", video: "3.mp4", caption: " a ball" }])).toBeCloseTo(1 / 2, 12);
    expect(chance([{ ...item, prompt: "a cat" }], references)).toBe(0);
  });
});
