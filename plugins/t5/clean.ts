/**
 * What the Wan pipeline does to a prompt before it is tokenized: ftfy's repairs, two rounds of HTML unescaping, single blanks.
 * Of ftfy, everything but the guessing of wrongly decoded text (mojibake) is here.
 */

/** The entities of HTML 4; those of Latin-1 (in code point order from 160) and the first four also count without a semicolon. */
const LATIN_1 =
  "nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr deg plusmn sup2 sup3 acute micro para middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest Agrave Aacute Acirc Atilde Auml Aring AElig Ccedil Egrave Eacute Ecirc Euml Igrave Iacute Icirc Iuml ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times Oslash Ugrave Uacute Ucirc Uuml Yacute THORN szlig agrave aacute acirc atilde auml aring aelig ccedil egrave eacute ecirc euml igrave iacute icirc iuml eth ntilde ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc uuml yacute thorn yuml".split(
    " ",
  );
const GREEK =
  "Alpha Α Beta Β Gamma Γ Delta Δ Epsilon Ε Zeta Ζ Eta Η Theta Θ Iota Ι Kappa Κ Lambda Λ Mu Μ Nu Ν Xi Ξ Omicron Ο Pi Π Rho Ρ Sigma Σ Tau Τ Upsilon Υ Phi Φ Chi Χ Psi Ψ Omega Ω alpha α beta β gamma γ delta δ epsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ omicron ο pi π rho ρ sigmaf ς sigma σ tau τ upsilon υ phi φ chi χ psi ψ omega ω thetasym ϑ upsih ϒ piv ϖ";
const SYMBOLS =
  "OElig Œ oelig œ Scaron Š scaron š Yuml Ÿ fnof ƒ circ ˆ tilde ˜ ndash – mdash — lsquo ‘ rsquo ’ sbquo ‚ ldquo “ rdquo ” bdquo „ dagger † Dagger ‡ bull • hellip … permil ‰ prime ′ Prime ″ lsaquo ‹ rsaquo › oline ‾ frasl ⁄ euro € image ℑ weierp ℘ real ℜ trade ™ alefsym ℵ larr ← uarr ↑ rarr → darr ↓ harr ↔ crarr ↵ lArr ⇐ uArr ⇑ rArr ⇒ dArr ⇓ hArr ⇔ forall ∀ part ∂ exist ∃ empty ∅ nabla ∇ isin ∈ notin ∉ ni ∋ prod ∏ sum ∑ minus − lowast ∗ radic √ prop ∝ infin ∞ ang ∠ and ∧ or ∨ cap ∩ cup ∪ int ∫ there4 ∴ sim ∼ cong ≅ asymp ≈ ne ≠ equiv ≡ le ≤ ge ≥ sub ⊂ sup ⊃ nsub ⊄ sube ⊆ supe ⊇ oplus ⊕ otimes ⊗ perp ⊥ sdot ⋅ lceil ⌈ rceil ⌉ lfloor ⌊ rfloor ⌋ lang ⟨ rang ⟩ loz ◊ spades ♠ clubs ♣ hearts ♥ diams ♦";
const LEGACY = new Map<string, string>([
  ["quot", '"'],
  ["amp", "&"],
  ["lt", "<"],
  ["gt", ">"],
  ...LATIN_1.map((name, i): [string, string] => [name, String.fromCodePoint(160 + i)]),
]);
const ENTITIES = new Map<string, string>([
  ...LEGACY,
  ["apos", "'"],
  ["ensp", "\u2002"],
  ["emsp", "\u2003"],
  ["thinsp", "\u2009"],
  ["zwnj", "\u200c"],
  ["zwj", "\u200d"],
  ["lrm", "\u200e"],
  ["rlm", "\u200f"],
  ...pairs(GREEK),
  ...pairs(SYMBOLS),
]);

function pairs(list: string): [string, string][] {
  const words = list.split(" ");
  return Array.from({ length: words.length / 2 }, (_, i) => [words[2 * i] as string, words[2 * i + 1] as string]);
}

/** A numeric reference; 128 to 159 mean Windows-1252, as browsers read them. */
function fromCode(code: number): string {
  if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return "\ufffd";
  if (code >= 0x80 && code <= 0x9f) return new TextDecoder("windows-1252").decode(Uint8Array.of(code));
  return String.fromCodePoint(code);
}

/** Python's html.unescape, for the entities of HTML 4. */
export function unescapeHtml(text: string): string {
  return text.replace(
    /&(?:#(\d+);?|#[xX]([0-9a-fA-F]+);?|([A-Za-z][A-Za-z0-9]{1,31})(;?))/g,
    (whole, decimal?: string, hex?: string, name?: string, end?: string) => {
      if (decimal !== undefined) return fromCode(Number.parseInt(decimal, 10));
      if (hex !== undefined) return fromCode(Number.parseInt(hex, 16));
      if (name === undefined) return whole;
      if (end === ";" && ENTITIES.has(name)) return ENTITIES.get(name) as string;
      // without its semicolon, the longest old name that begins the word counts: "&copyright" is "(c)right"
      for (let n = name.length; n > 1; n--) {
        const legacy = LEGACY.get(name.slice(0, n));
        if (legacy !== undefined) return legacy + name.slice(n) + end;
      }
      return whole;
    },
  );
}

/** Two letters in one character; NFKC would also undo what a prompt may mean (superscripts, fractions). */
const LIGATURES = /[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06]/g;
const FULL_WIDTH = /[\u3000\uff01-\uffef]/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it removes
const CONTROLS = /[\u0000-\u0008\u000b\u000e-\u001f\u007f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: an escape sequence starts with one
const TERMINAL = /\u001b\[[\d;]*[a-zA-Z]/g;

/** ftfy.fix_text 6 with its default settings, without mojibake. */
export function fixText(text: string): string {
  const unescaped = text.includes("<") ? text : text.replace(/&#?[0-9A-Za-z]{1,24};/g, unescapeHtml);
  return unescaped
    .replace(TERMINAL, "")
    .replace(LIGATURES, (c) => (c === "\u0149" ? "\u02bcn" : c === "\ufb05" ? "\u017ft" : c.normalize("NFKC")))
    .replace(FULL_WIDTH, (c) => c.normalize("NFKC"))
    .replace(/[\u02bc\u2018-\u201b]/g, "'")
    .replace(/[\u201c-\u201f]/g, '"')
    .replace(/\r\n|[\r\u0085\u2028\u2029]/g, "\n")
    .toWellFormed()
    .replace(CONTROLS, "")
    .normalize("NFC");
}

/** A prompt as the pipelines hand it to the tokenizer. */
export const cleanPrompt = (text: string): string =>
  unescapeHtml(unescapeHtml(fixText(text)))
    .replace(/\s+/g, " ")
    .trim();
