import { describe, expect, test } from "bun:test";
import { degreesFor } from "./mesh.ts";
import { meetings } from "./ring.ts";
import { stretches } from "./sequence.ts";
import { passBytes, sequenceBytes, shardBytes } from "./traffic.ts";

describe("degrees", () => {
  test("heads decide how much of a sequence Ulysses takes", () => {
    // Wan 1.3B has 12 heads, 14B 40, Waver 24 (performance.md 5)
    expect(degreesFor(8, 40, "auto")).toEqual({ ring: 1, ulysses: 8 });
    expect(degreesFor(8, 12, "auto")).toEqual({ ring: 2, ulysses: 4 });
    expect(degreesFor(16, 24, "auto")).toEqual({ ring: 2, ulysses: 8 });
    expect(degreesFor(3, 2, "auto")).toEqual({ ring: 3, ulysses: 1 });
    expect(degreesFor(8, 40, "ring")).toEqual({ ring: 8, ulysses: 1 });
    expect(degreesFor(16, 40, "auto", 4)).toEqual({ ring: 4, ulysses: 4 });
  });
  test("what does not fit names the knob", () => {
    expect(() => degreesFor(8, 12, "ulysses")).toThrow("12 heads do not divide by parallel.ulysses 8");
    expect(() => degreesFor(6, 12, "auto", 4)).toThrow("6 ranks of a sequence do not divide into groups of 4");
  });
});

test("stretches differ by one token at most and leave none out", () => {
  expect(stretches(10, 4)).toEqual([3, 3, 2, 2]);
  expect(stretches(75_600, 7).reduce((a, b) => a + b)).toBe(75_600);
});

test("in a ring only windows with tokens on both sides meet", () => {
  const windows = [{ numWindows: 2, length: 4, tokens: Int32Array.of(0, 1, 4, 5, 2, 3, 6, 7), index: null as never }];
  const all = { from: 0, length: 8 };
  expect(meetings(windows, all, all)).toEqual([
    { count: 2, queries: [0, 1, 4, 5, 2, 3, 6, 7], keys: [0, 1, 4, 5, 2, 3, 6, 7] },
  ]);
  // my tokens 0 and 1 are of the first window, theirs 6 and 7 of the second
  expect(meetings(windows, { from: 0, length: 2 }, { from: 6, length: 2 })).toEqual([]);
  expect(meetings(windows, { from: 3, length: 3 }, { from: 6, length: 2 })).toEqual([
    { count: 1, queries: [0], keys: [0, 1] },
  ]);
});

describe("bytes, by hand", () => {
  const of = { batch: 1, numTokens: 1000, heads: 8, headDim: 16, numLayers: 3, itemSize: 2 };
  const token = 8 * 16 * 2;
  test("Ulysses: four tensors, of which each rank keeps its part; the end is gathered", () => {
    expect(sequenceBytes(4, of)).toBe(3 * (4 * 1000 * token * 0.75) + 4 * 3 * 250 * token);
  });
  test("Ring: keys and values, past all others", () => {
    expect(sequenceBytes(4, of, { mode: "ring" })).toBe(3 * (2 * 3 * 1000 * token) + 4 * 3 * 250 * token);
  });
  test("text in front adds what its queries attended to", () => {
    const more = sequenceBytes(4, { ...of, prefix: 100 }) - sequenceBytes(4, of);
    expect(more).toBe(3 * 4 * 100 * token * 0.75);
  });
  test("weights and passes", () => {
    expect(shardBytes(4, 1e9)).toBe(3e9);
    expect(passBytes(4, { inputs: 10, outputsElsewhere: 7 })).toBe(37);
  });
});
