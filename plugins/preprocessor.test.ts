import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ImageSettings } from "../native/index.ts";
import { readPreprocessor } from "./preprocessor.ts";

const byEdge: ImageSettings = {
  resize: { shortestEdge: 224 },
  resample: "bicubic",
  crop: { height: 224, width: 224 },
  rescale: 1 / 255,
  normalize: { mean: [0.1, 0.2, 0.3], std: [1, 2, 3] },
};
const square: ImageSettings = { ...byEdge, resize: { height: 224, width: 224 }, crop: null };

function folderOf(config: unknown, name = "preprocessor_config.json"): string {
  const folder = mkdtempSync(join(tmpdir(), "preprocessor-"));
  writeFileSync(join(folder, name), typeof config === "string" ? config : JSON.stringify(config));
  return folder;
}

test("the forms of 2021 and of today say the same", () => {
  const old = {
    feature_extractor_type: "CLIPFeatureExtractor",
    size: 336,
    crop_size: 336,
    resample: 3,
    do_resize: true,
  };
  const today = { size: { shortest_edge: 336 }, crop_size: { height: 336, width: 336 }, resample: 3 };
  const want = { ...byEdge, resize: { shortestEdge: 336 }, crop: { height: 336, width: 336 } };
  expect(readPreprocessor([folderOf(old)], byEdge)).toEqual(want);
  expect(readPreprocessor([folderOf(today)], byEdge)).toEqual(want);
  expect(readPreprocessor([folderOf({ image_processor: today }, "processor_config.json")], byEdge)).toEqual(want);
  // of a class that squeezes, a bare number is both sides
  expect(readPreprocessor([folderOf({ size: 384 })], square)).toEqual({
    ...square,
    resize: { height: 384, width: 384 },
  });
});

test("steps can be left out, and numbers given", () => {
  const file = {
    do_resize: false,
    do_center_crop: false,
    do_rescale: true,
    rescale_factor: 0.5,
    do_normalize: true,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.25, 0.25, 0.25],
    resample: 2,
  };
  expect(readPreprocessor([folderOf(file)], byEdge)).toEqual({
    resize: null,
    crop: null,
    rescale: 0.5,
    normalize: { mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] },
    resample: "bilinear",
  });
  expect(readPreprocessor([folderOf({ do_normalize: false, do_center_crop: true })], square)).toMatchObject({
    normalize: null,
    crop: null,
  });
});

test("the first folder that has a file counts; without any, the class's own settings", () => {
  const empty = mkdtempSync(join(tmpdir(), "preprocessor-"));
  mkdirSync(join(empty, "image_processor"));
  expect(readPreprocessor([empty, folderOf({ size: 112 })], byEdge).resize).toEqual({ shortestEdge: 112 });
  expect(readPreprocessor([empty], byEdge)).toEqual(byEdge);
});

test.each([
  ["{", /is not JSON/],
  [{ size: { depth: 3 } }, /size/],
  [{ resample: 5 }, /resample 5 is a filter/],
])("%j is one sentence", (config, message) => {
  expect(() => readPreprocessor([folderOf(config)], byEdge)).toThrow(message);
});
