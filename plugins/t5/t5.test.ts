import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { allClose, noGrad, scope, setThreads } from "../../native/index.ts";
import { UnigramTokenizer } from "../unigram.ts";
import { cleanPrompt, fixText, unescapeHtml } from "./clean.ts";
import { T5TextEncoder } from "./encoder.ts";
import { T5Config } from "./params.ts";

setThreads(1);
setDefaultTimeout(60_000); // seconds of work on a loaded machine
const golden = join(import.meta.dir, "../../test/golden");
const folders = ["tokenizer_t5_unigram", "tokenizer_umt5_unigram"].map((name) => join(golden, name, "tokenizer"));

describe("the tokenizer", () => {
  test.each(folders)("segments as the published library does: %s", async (folder) => {
    const tokenizer = UnigramTokenizer.load(folder);
    const { encode } = JSON.parse(readFileSync(join(folder, "../expected.json"), "utf8")) as {
      encode: { text: string; ids_no_special: number[] }[];
    };
    for (const { text, ids_no_special } of encode)
      expect([text, tokenizer.encode(text)]).toEqual([text, ids_no_special]);
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "grapheme", maxLength: 40 }), async (text) => {
        const published = await tokenizer.published.encode(text, null, { addSpecialTokens: false });
        expect(tokenizer.encode(text)).toEqual(published.getIds());
      }),
      { numRuns: 200, seed: 11 },
    );
  });

  test("says what is wrong with a folder", () => {
    expect(() => UnigramTokenizer.load("/nonexistent")).toThrow(/no tokenizer.json/);
    const folder = mkdtempSync(join(tmpdir(), "tokenizer-"));
    Bun.write(join(folder, "tokenizer.json"), JSON.stringify({ model: { type: "BPE", vocab: {} } }));
    expect(() => UnigramTokenizer.load(folder)).toThrow(/no unigram model/);
  });
});

describe("prompt cleaning", () => {
  test.each([
    ["a &amp; b", "a & b"],
    ["a &amp;amp;amp; b", "a & b"],
    ["5 &lt; 6 &#39;x&#x27; &copy; &hellip;", "5 < 6 'x' © …"],
    ["caf\u0065\u0301  \u201cquoted\u201d \u2018it\u2019s\u2019", "caf\u00e9 \"quoted\" 'it's'"],
    ["\ufb01ne \uff21\uff22\u3000wide", "fine AB wide"],
    ["tab\tand\r\nlines\u2028end \u0007bell \ufeff", "tab and lines end bell"],
    ["  ", ""],
  ])("%j", (dirty, clean) => expect(cleanPrompt(dirty)).toBe(clean));

  test("entities follow Python's html.unescape", () => {
    expect(unescapeHtml("&notit; &amp &ampx; &unknown; &#0; &#x80; &")).toBe("¬it; & &x; &unknown; \ufffd € &");
  });

  test("text that has tags keeps its entities for the pipeline to undo", () => {
    expect(fixText("<b>&amp;</b>")).toBe("<b>&amp;</b>");
    expect(fixText("a &amp; b")).toBe("a & b");
  });
});

describe("the encoder", () => {
  const config = T5Config.parse({
    vocab_size: 700,
    d_model: 16,
    d_kv: 4,
    d_ff: 24,
    num_layers: 2,
    num_heads: 3,
    feed_forward_proj: "gated-gelu",
  });
  const settings = { device: "cpu", maxTokens: 12, tokenizer: folders[0] as string, clean: true } as const;

  test("a text means the same alone, in a batch and padded; rows after it are zero", async () => {
    await using encoder = T5TextEncoder.fresh(config, 1, settings);
    scope(() => {
      const texts = ["a red ball", "two blue squares on a long grey road and more"];
      const together = noGrad(() => encoder.encode(texts, { padTo: 16 }));
      expect(together.states.shape).toEqual([2, 16, 16]);
      for (const [i, text] of texts.entries()) {
        const alone = noGrad(() => encoder.encode([text]));
        const length = alone.mask.size(1);
        expect(
          allClose(together.states.select(0, i).narrow(0, 0, length), alone.states.select(0, 0), { atol: 1e-6 }),
        ).toBe(true);
        expect(
          together.states
            .select(0, i)
            .narrow(0, length, 16 - length)
            .abs()
            .sum()
            .item(),
        ).toBe(0);
        expect(together.mask.select(0, i).float().sum().item()).toBe(length);
      }
    });
  });

  test("long prompts are cut, the end token kept", async () => {
    await using encoder = T5TextEncoder.fresh(config, 1, settings);
    const [ids] = encoder.tokenize(["word ".repeat(40)]);
    expect(ids).toHaveLength(12);
    expect(ids?.at(-1)).toBe(config.eos_token_id);
    expect(encoder.tokenize([""])).toEqual([[config.eos_token_id]]);
  });

  test.each(["t5", "umt5"] as const)(
    "%s learns in every weight, and comes back from disk as it was",
    async (model_type) => {
      const folder = mkdtempSync(join(tmpdir(), "t5-"));
      await using encoder = T5TextEncoder.fresh({ ...config, model_type }, 1, settings);
      encoder.module.requiresGrad_();
      scope(() => encoder.encode(["a red ball", "x"]).states.square().sum().backward());
      for (const [name, weight] of encoder.module.namedParameters())
        expect([name, weight.grad !== null]).toEqual([name, true]);
      encoder.module.zeroGrad();
      await encoder.save(folder);
      await using again = T5TextEncoder.load(folder, { device: "cpu", maxTokens: 12, clean: true });
      scope(() => {
        const [a, b] = [encoder, again].map((each) => noGrad(() => each.encode(["a red ball"]).states));
        expect(allClose(a as never, b as never, { rtol: 0, atol: 0 })).toBe(true);
      });
    },
  );
});
