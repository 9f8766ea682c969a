import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { ClipTokenizer } from "./tokenizer.ts";

/** A vocabulary in the published order: letters, letters that end a word, merges, start and end. ð Ł Ĳ are bytes of an emoji. */
const letters = [..."abdehilnorstw'12ðŁĲ"];
const merges = ["t h", "th e</w>", "r e", "re d</w>", "' s</w>", "i t</w>", "a l", "b al", "bal l</w>"];
const pieces = [
  ...letters,
  ...letters.map((letter) => `${letter}</w>`),
  ...merges.map((pair) => pair.replace(" ", "")),
];
const vocab = Object.fromEntries([...pieces, "<|startoftext|>", "<|endoftext|>"].map((piece, i) => [piece, i]));
const START = vocab["<|startoftext|>"] as number;
const END = vocab["<|endoftext|>"] as number;
const ids = (...tokens: string[]): number[] => tokens.map((token) => vocab[token] as number);

const old = mkdtempSync(join(tmpdir(), "clip-tokenizer-"));
writeFileSync(join(old, "vocab.json"), JSON.stringify(vocab));
writeFileSync(join(old, "merges.txt"), `#version: 0.2\n${merges.join("\n")}\n`);
const tokenizer = ClipTokenizer.load(old);

describe("the tokenizer", () => {
  test.each([
    ["the red ball", ids("the</w>", "red</w>", "ball</w>")],
    ["  The\n\tRED   Ball ", ids("the</w>", "red</w>", "ball</w>")],
    ["it's", ids("it</w>", "'s</w>")],
    // digits stand alone
    ["12 ball", ids("1</w>", "2</w>", "ball</w>")],
    // a word that is not in the vocabulary is spelt
    ["ballet", ids("bal", "l", "e", "t</w>")],
    // F0 9F 90 B2 in the alphabet of GPT-2; its last byte is not in this vocabulary, and unknown is the end token
    ["🐲", [...ids("ð", "Ł", "Ĳ"), END]],
    ["", []],
    // the end token by its own name is itself
    ["red<|endoftext|>", [...ids("red</w>"), END]],
  ])("%j", (text, want) => expect(tokenizer.encode(text)).toEqual([START, ...want, END]));

  test("any text is cut as the published library cuts it", async () => {
    const text = fc.oneof(
      fc.string({ unit: "grapheme", maxLength: 30 }),
      fc.stringMatching(/^[abdehilnorstwABE' 123\n]{0,30}$/),
    );
    await fc.assert(
      fc.asyncProperty(text, async (each) => {
        const published = await tokenizer.bpe.published.encode(each, null, { addSpecialTokens: false });
        expect(tokenizer.encode(each, 1000).slice(1, -1)).toEqual(published.getIds());
      }),
      { numRuns: 200, seed: 11 },
    );
  });

  test("long texts lose their tail and keep their end", () => {
    const long = tokenizer.encode("red ".repeat(100));
    expect(long).toHaveLength(77);
    expect([long[0], long.at(-2), long.at(-1)]).toEqual([START, vocab["red</w>"], END]);
    expect(tokenizer.encode("the red ball", 4)).toEqual([START, ...ids("the</w>", "red</w>"), END]);
  });

  test("a batch is padded with end tokens that its mask leaves out", () => {
    expect(tokenizer.encodeBatch(["red", "the ball"])).toEqual({
      ids: [
        [START, ...ids("red</w>"), END, END],
        [START, ...ids("the</w>", "ball</w>"), END],
      ],
      mask: [
        [1, 1, 1, 0],
        [1, 1, 1, 1],
      ],
    });
    expect(tokenizer.encodeBatch([])).toEqual({ ids: [], mask: [] });
  });

  test("is found beside a text encoder, and a folder without one is named", () => {
    const model = mkdtempSync(join(tmpdir(), "clip-model-"));
    for (const name of ["text_encoder", "tokenizer"]) mkdirSync(join(model, name));
    for (const name of ["vocab.json", "merges.txt"])
      Bun.write(join(model, "tokenizer", name), Bun.file(join(old, name)));
    expect(() => ClipTokenizer.load(model)).toThrow(/no tokenizer.json, nor vocab.json/);
    writeFileSync(join(model, "tokenizer.json"), "{}");
    expect(() => ClipTokenizer.load(model)).toThrow(/tokenizer.json/);
  });
});
