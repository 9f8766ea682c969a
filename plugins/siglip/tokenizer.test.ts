import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SiglipTokenizer } from "./tokenizer.ts";

const scratch = mkdtempSync(join(tmpdir(), "siglip-tokenizer-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** Two SentencePiece models of 62 pieces: with a few rules of normalisation, and with none. */
const MODELS = {
  rule: "Cg4KBTxwYWQ+FQAAAAAYAwoNCgQ8L3M+FQAAAAAYAwoOCgU8dW5rPhUAAAAAGAIKCgoD4paBFe99HcAKCAoBZRX7QyXACggKAWgVpvQywAoICgFzFZlOQsAKCwoE4paBYRU3sUPACgsKBOKWgXQVE6BNwAoICgF0FdZkWcAKCAoBbxWHEl7ACggKAWEVN/llwAoICgFkFToAbsAKCwoE4paBbxVw72/ACggKAXIVRvN2wAoLCgTiloFzFUCaeMAKCQoCbmQV/JV9wAoICgFnFX6hfsAKCAoBZhW0Q3/ACgkKAsOpFbRDf8AKCQoCdmUVXVN/wAoLCgTiloFyFciEf8AKCQoCbGUVDtiAwAoJCgJ1bhVnSYHACgkKAmluFf2jgsAKDAoF4paBcmUVQraCwAoICgFwFV+cicAKDQoG4paBZG9nFd7sjMAKDQoG4paBc3RyFc0mjcAKDAoF4paBZ3IVGmCNwAoNCgbiloFjYXQVfH2NwAoLCgTiloFpFd+ijcAKCwoE4paBdxWZiY7ACgsKBOKWgXAVLDaQwAoJCgJhbBWSgZDACgkKAm9uFU6EksAKCQoCZWEVaq2SwAoJCgJybxVmGpbACgkKAmhpFXQZnsAKCAoBdxXK+J/ACg4KB+KWgWJhbGwVjfKhwAoJCgJuaRXUMaLACgwKBeKWgWNhFQ5uosAKCAoBYxXHOaPACggKASwVvFOjwAoICgExFbxTo8AKCAoBMhW8U6PACggKATMVvFOjwAoICgFrFbxTo8AKCAoBbRW8U6PACgkKAsOfFbxTo8AKCgoDbGxzFRtUo8AKCQoCc3UVOVWjwAoLCgTiloFiFTtmo8AKCQoCZWUVgKajwAoPCgjiloFiYWxscxVHIKXACggKAXYVUNy3wAoICgFiFSLdt8AKCAoBdRX03bfACggKAWkVxt63wAoICgFsFZfft8AKCAoBbhVp4LfAEjMKBWMudHh0EgRydWxlGAEgPlX2KHw/wAICyAL///////////8B0AIB2AIAggMFPHBhZD4aqggKDHVzZXJfZGVmaW5lZBKPCAAEAAAAIAAACQ0AAAAAAICgBQAAgJACAAIAAICmDQAAgRUAAIAEAgCALQAArAACAIEdAAAIAACAoQ0AAAYAAIAOAAAAEQAAABAAAACWUAIAEgAAABUAAAAUAAAAFwAAABYAAAAZAAAAGAAAALzYAgAaAAAAHQAAABwAAAAfAAAAHgAAACEAAAAgAAAAIwAAACIAAAAlAAAAJAAAACcAAAAmAAAAKQAAACgAAAArAAAAKgAAAC0AAAAsAAAALwAAAC4AAAAxAAAAMAAAADMAAAAyAAAANQAAADQAAAA3AAAANgAAADkAAAA4AAAAOwAAADoAAAA9AAAAPAAAAD8AAAA+AAAAQQAAAEAAAABDAAAAQgAAAEUAAABEAAAARwAAAEYAAABJAAAASAAAAEsAAABKAAAATQAAAEwAAABPAAAATgAAAFEAAABQAAAAUwAAAFIAAABVAAAAVAAAAFcAAABWAAAAWQAAAFgAAABbAAAAWgAAAF0AAABcAAAAXwAAAF4AAABhAAAAYAAAAGMAAABiAAAAZQAAAGQAAABnAAAAZgAAAGkAAABoAAAAawAAAGoAAABtAAAAbAAAAG8AAABuAAAAcQAAAHAAAABzAAAAcgAAAHUAAAB0AAAAdwAAAHYAAAB5AAAAeAAAAHsAAAB6AAAAfQAAAHwAAAB/AAAAfgAAAIEAAACAAAAAgwAAAIIAAACFAAAAhAAAAIcAAACGAAAAiQAAAIgAAACLAAAAigAAAI0AAACMAAAAjwAAAI4AAACRAAAAkAAAAJMAAACSAAAAlQAAAJQAAACXAAAAlgAAAJkAAACYAAAAmwAAAJoAAACdAAAAnAAAAJ8AAACeAAAAoQAAAKAAAACjAAAAogAAAKUAAACkAAAApwAAAKYAAACpAAAAqAAAAKsAAACqAAAArQAAAKwAAACvAAAArgAAALEAAACwAAAAswAAALIAAAC1AAAAtAAAALcAAAC2AAAAuQAAALgAAAC7AAAAugAAAL0AAAC8AAAAvwAAAL4AAADBAAAAwAAAAMMAAADCAAAAxQAAAMQAAADHAAAAxgAAAMkAAADIAAAAwqQBAMoAAADNAAAAzAAAAM8AAADOAAAA0QAAANAAAADTAAAA0gAAANUAAADUAAAA1wAAANYAAADZAAAA2AAAANsAAADaAAAA3QAAANwAAADfAAAA3gAAAOEAAADgAAAA4wAAAOIAAADlAAAA5AAAAOcAAADvBAEA6QAAAOgAAADiuAEA44wBAO0AAADsAAAA7wAAAO4AAADxAAAA8AAAAPMAAADyAAAA9QAAAPQAAAD3AAAA9gAAAPkAAAD4AAAA+wAAAPoAAAD9AAAA/AAAAP8AAAD+AAAAIAAuLi4AQQBmaQAyCHJ1bGUudHN2",
  plain:
    "Cg4KBTxwYWQ+FQAAAAAYAwoNCgQ8L3M+FQAAAAAYAwoOCgU8dW5rPhUAAAAAGAIKCgoD4paBFe99HcAKCAoBZRX7QyXACggKAWgVpvQywAoICgFzFZlOQsAKCwoE4paBYRU3sUPACgsKBOKWgXQVE6BNwAoICgF0FdZkWcAKCAoBbxWHEl7ACggKAWEVN/llwAoICgFkFToAbsAKCwoE4paBbxVw72/ACggKAXIVRvN2wAoLCgTiloFzFUCaeMAKCQoCbmQV/JV9wAoICgFnFX6hfsAKCAoBZhW0Q3/ACgkKAsOpFbRDf8AKCQoCdmUVXVN/wAoLCgTiloFyFciEf8AKCQoCbGUVDtiAwAoJCgJ1bhVnSYHACgkKAmluFf2jgsAKDAoF4paBcmUVQraCwAoICgFwFV+cicAKDQoG4paBZG9nFd7sjMAKDQoG4paBc3RyFc0mjcAKDAoF4paBZ3IVGmCNwAoNCgbiloFjYXQVfH2NwAoLCgTiloFpFd+ijcAKCwoE4paBdxWZiY7ACgsKBOKWgXAVLDaQwAoJCgJhbBWSgZDACgkKAm9uFU6EksAKCQoCZWEVaq2SwAoJCgJybxVmGpbACgkKAmhpFXQZnsAKCAoBdxXK+J/ACg4KB+KWgWJhbGwVjfKhwAoJCgJuaRXUMaLACgwKBeKWgWNhFQ5uosAKCAoBYxXHOaPACggKASwVvFOjwAoICgExFbxTo8AKCAoBMhW8U6PACggKATMVvFOjwAoICgFrFbxTo8AKCAoBbRW8U6PACgkKAsOfFbxTo8AKCgoDbGxzFRtUo8AKCQoCc3UVOVWjwAoLCgTiloFiFTtmo8AKCQoCZWUVgKajwAoPCgjiloFiYWxscxVHIKXACggKAXYVUNy3wAoICgFiFSLdt8AKCAoBdRX03bfACggKAWkVxt63wAoICgFsFZfft8AKCAoBbhVp4LfAEjQKBWMudHh0EgVwbGFpbhgBID5V9ih8P8ACAsgC////////////AdACAdgCAIIDBTxwYWQ+GgwKCGlkZW50aXR5EgA=",
} as const;
/** Ids of transformers 5.24's SiglipTokenizer (sentencepiece 0.2.3, padded and cut to 64), up to the first end token behind which all are. */
const TEXTS = [
  { text: "a photo of a cat", rule: "7 33 5 10 9 10 13 18 7 30 1", plain: "7 33 5 10 9 10 13 18 7 30 1" },
  {
    text: "  A RED  Ball,\trolls over... the GRASS! ",
    rule: "7 25 12 40 3 37 51 13 20 14 8 5 4 29 11 6 6 1",
    plain: "3 7 25 12 40 3 37 51 13 20 14 8 5 4 29 11 6 6 1",
  },
  {
    text: "caf\u00e9 & na\u00efve \u732b\u732b \u{1f98a}\u{1f98a} fox",
    rule: "42 18 19 3 61 11 2 20 3 2 3 2 3 18 10 2 1",
    plain: "42 18 19 3 61 11 2 20 3 2 3 2 3 18 10 2 1",
  },
  { text: "", rule: "1", plain: "1" },
  { text: "...", rule: "1", plain: "1" },
  {
    text: "one\u3000two\u00a0three\u2026 \ufb01n \uff21",
    rule: "3 35 4 8 39 10 8 5 14 54 2 3 18 24 3 2 1",
    plain: "3 35 4 8 39 10 8 5 14 54 2 3 2 61 3 2 1",
  },
  { text: "the </s> cat", rule: "8 5 4 1 43 11 9 1", plain: "8 5 4 1 43 11 9 1" },
  { text: "ends here</s>", rule: "3 4 16 6 3 5 4 14 4 1", plain: "3 4 16 6 3 5 4 14 4 1" },
  { text: "\u2581the\u2581cat", rule: "8 5 4 30 1", plain: "3 8 5 4 30 1" },
  {
    text: 'don\'t-stop: "quotes" (and) [brackets] {x_y} #1 @me 50% a/b\\c ~z|w ^',
    rule: "3 12 35 9 6 9 10 26 3 2 58 10 9 4 6 7 16 53 14 11 43 48 4 9 6 3 2 3 45 3 49 4 3 2 7 57 43 3 2 39 1",
    plain: "3 12 35 9 6 9 10 26 3 2 58 10 9 4 6 7 16 53 14 11 43 48 4 9 6 3 2 3 45 3 49 4 3 2 7 57 43 3 2 39 1",
  },
  {
    text: "dogs run ".repeat(40),
    rule: "27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 1",
    plain:
      "27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 23 27 6 21 1",
  },
  { text: "\u4eba \u00b7 na\u00efve", rule: "3 2 3 2 3 61 11 2 20 1", plain: "3 2 3 2 3 61 11 2 20 1" },
  {
    text: "\u0130stanbul STRASSE \u1e9e",
    rule: "31 2 6 9 11 61 57 58 60 28 11 6 6 4 3 50 1",
    plain: "31 2 6 9 11 61 57 58 60 28 11 6 6 4 3 50 1",
  },
];

test.each(["rule", "plain"] as const)("ids are those of SiglipTokenizer: %s", (name) => {
  const folder = join(scratch, name);
  mkdirSync(folder);
  writeFileSync(join(folder, "spiece.model"), Buffer.from(MODELS[name], "base64"));
  const tokenizer = SiglipTokenizer.load(folder);
  for (const { text, ...ids } of TEXTS) {
    const expected = ids[name].split(" ").map(Number);
    expect([text, tokenizer.encode(text)]).toEqual([text, [...expected, ...new Array(64 - expected.length).fill(1)]]);
  }
  expect(tokenizer.encode("a photo of a cat", 4)).toHaveLength(4);
});

test("what is no model is told by its path", () => {
  expect(() => SiglipTokenizer.load(scratch)).toThrow(/holds no spiece.model/);
  writeFileSync(join(scratch, "spiece.model"), "no protocol buffer");
  expect(() => SiglipTokenizer.load(scratch)).toThrow(/spiece.model/);
});
