import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { BpeTokenizer } from "./bpe.ts";
import { ChatTemplate } from "./chat.ts";

const folder = join(import.meta.dir, "../test/golden/tokenizer_qwen2_bpe/tokenizer");
const tokenizer = BpeTokenizer.load(folder);

/** The golden file with something changed, in a folder of its own. */
function changed(change: (file: Record<string, unknown>) => void): string {
  const file = JSON.parse(readFileSync(join(folder, "tokenizer.json"), "utf8")) as Record<string, unknown>;
  change(file);
  const made = mkdtempSync(join(tmpdir(), "bpe-"));
  writeFileSync(join(made, "tokenizer.json"), JSON.stringify(file));
  return made;
}

async function agrees(ours: BpeTokenizer, text: string): Promise<void> {
  const published = await ours.published.encode(text, null, { addSpecialTokens: true });
  expect([text, ours.encode(text)]).toEqual([text, published.getIds()]);
}

describe("the BPE tokenizer", () => {
  test("merges as the published library does, and reads its own tokens back", async () => {
    const words = fc.constantFrom(
      "the ",
      "video",
      " camera",
      "ing",
      "<|im_end|>",
      "\n",
      "  ",
      "'s",
      "12",
      "猫",
      "é",
      "\u0301",
      "😀",
    );
    const text = fc.oneof(
      fc.string({ unit: "grapheme", maxLength: 40 }),
      fc.array(words, { maxLength: 30 }).map((w) => w.join("")),
    );
    await fc.assert(
      fc.asyncProperty(text, async (text) => {
        await agrees(tokenizer, text);
        expect(tokenizer.decode(tokenizer.encode(text), { special: true })).toBe(text.normalize("NFC").toWellFormed());
      }),
      { numRuns: 300, seed: 5 },
    );
  });

  test("one word as long as a prompt may be takes n log n", async () => {
    for (const letters of ["a", "the", "视频"]) await agrees(tokenizer, letters.repeat(100_000 / letters.length));
  });

  test("older merges, a suffix of words, a post-processor and digits read alike", async () => {
    const older = changed((file) => {
      const model = file["model"] as { merges: [string, string][] };
      (file["model"] as Record<string, unknown>)["merges"] = model.merges.map((pair) => pair.join(" "));
    });
    await agrees(BpeTokenizer.load(older), "Hello, world! It's 2025");
    const framed = changed((file) => {
      const special = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
      file["post_processor"] = {
        type: "TemplateProcessing",
        single: [special("<|im_start|>"), { Sequence: { id: "A", type_id: 0 } }, special("<|im_end|>")],
        pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
        special_tokens: Object.fromEntries(
          [
            ["<|im_start|>", 702],
            ["<|im_end|>", 700],
          ].map(([id, n]) => [id, { id, ids: [n], tokens: [id] }]),
        ),
      };
    });
    await agrees(BpeTokenizer.load(framed), "a video");
    expect(BpeTokenizer.load(framed).encode("a video", { around: false })).toEqual(tokenizer.encode("a video"));
    const digits = changed((file) => {
      file["pre_tokenizer"] = {
        type: "Sequence",
        pretokenizers: [
          { type: "Digits", individual_digits: true },
          { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
        ],
      };
    });
    for (const text of ["It's 2025-07-30; don't panic", "  two  spaces "])
      await agrees(BpeTokenizer.load(digits), text);
    const ended = changed((file) => {
      file["model"] = {
        ...{ type: "BPE", end_of_word_suffix: "</w>", unk_token: "<unk>" },
        vocab: { a: 0, b: 1, "a</w>": 2, "b</w>": 3, ab: 4, "ab</w>": 5, "<unk>": 6 },
        merges: [
          ["a", "b</w>"],
          ["a", "b"],
        ],
      };
      Object.assign(file, {
        added_tokens: [],
        normalizer: null,
        pre_tokenizer: { type: "WhitespaceSplit" },
        decoder: null,
        post_processor: null,
      });
    });
    for (const text of ["ab", "abab", "aba", "ab ba x"]) await agrees(BpeTokenizer.load(ended), text);
  });

  test("says what is wrong with a folder", () => {
    expect(() => BpeTokenizer.load("/nonexistent")).toThrow("/nonexistent holds no tokenizer.json");
    const unigram = changed((file) => Object.assign(file, { model: { type: "Unigram", vocab: [] } }));
    expect(() => BpeTokenizer.load(unigram)).toThrow("the tokenizer is no BPE model");
    const broken = changed((file) => void (file["model"] as { merges: unknown[] }).merges.push(["zq", "qz"]));
    expect(() => BpeTokenizer.load(broken)).toThrow("not what its library reads");
  });
});

describe("chat templates", () => {
  const made = (files: Record<string, unknown>): string => {
    const at = mkdtempSync(join(tmpdir(), "chat-"));
    for (const [name, content] of Object.entries(files))
      writeFileSync(join(at, name), typeof content === "string" ? content : JSON.stringify(content));
    return at;
  };
  const turns =
    "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ bos_token }}";
  const messages = [{ role: "user", content: "hi" }] as const;

  test.each([
    [{ "chat_template.jinja": turns, "tokenizer_config.json": { bos_token: { content: "<s>" } } }, "[user:hi]><s>"],
    [{ "chat_template.json": { chat_template: turns } }, "[user:hi]>"],
    [{ "tokenizer_config.json": { chat_template: turns, bos_token: "<s>" } }, "[user:hi]><s>"],
    [
      {
        "tokenizer_config.json": {
          chat_template: [
            { name: "tool_use", template: "no" },
            { name: "default", template: turns },
          ],
        },
      },
      "[user:hi]>",
    ],
  ])("is found where checkpoints keep it: %j", (files, text) => {
    expect(ChatTemplate.load(made(files)).render(messages)).toBe(text);
  });

  test("marks for images are the template's to write", () => {
    const parts =
      "{% for p in messages[0].content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<{{ p.type }}>{% endif %}{% endfor %}";
    const seen = [{ role: "user", content: [{ type: "video" }, { type: "text", text: "what is this?" }] }] as const;
    expect(ChatTemplate.load(made({ "chat_template.jinja": parts })).render(seen)).toBe("<video>what is this?");
  });

  test("a missing, broken or refusing template says so", () => {
    expect(() => ChatTemplate.load(made({}))).toThrow("holds no chat template");
    expect(() => ChatTemplate.load(made({ "chat_template.jinja": "{% for %}" }))).toThrow(
      "the chat template cannot be read",
    );
    const strict = ChatTemplate.load(made({ "chat_template.jinja": "{{ raise_exception('roles must alternate') }}" }));
    expect(() => strict.render(messages)).toThrow("roles must alternate");
  });
});
