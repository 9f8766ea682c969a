import { expect, test } from "bun:test";
import { checkPlugin, failures } from "../testing.ts";
import plugin from "./index.ts";
import { tagged } from "./tags.ts";

const tags = { quality: "high definition, fast motion", avoid: "low definition, slow motion" };

test("the plugin keeps the contract", async () => {
  expect(failures(await checkPlugin(plugin))).toEqual([]);
});

test("style comes first, quality last, the wrong quality into the negative prompt", () => {
  const made = tagged({ text: "a girl reads a letter", negative: "text", seconds: 5 }, { style: "2d-anime", ...tags });
  expect(made).toEqual({
    text: "2D anime style. a girl reads a letter. high definition, fast motion.",
    negative: "text, low definition, slow motion",
    seconds: 5,
  });
});

test("tags that are there already are not said twice, and empty ones not at all", () => {
  const once = tagged({ text: "A boat!", negative: "" }, { style: "watercolour", ...tags });
  expect(tagged(once, { style: "watercolour", ...tags })).toEqual(once);
  expect(once.text).toBe("watercolour. A boat! high definition, fast motion.");
  expect(tagged({ text: "一只猫。", negative: "" }, { quality: "", avoid: "" })).toEqual({
    text: "一只猫。",
    negative: "",
  });
});
