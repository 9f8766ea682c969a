/** JSON from outside: UTF-8, of bounded depth, without the keys that reach prototypes. */

const MAX_DEPTH = 64;
export const FORBIDDEN: ReadonlySet<string> = new Set(["__proto__", "constructor", "prototype"]);

export function parseJson(bytes: Uint8Array): { value: unknown } | { problem: string } {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    return { problem: `the body is not UTF-8 (${(error as Error).name})` };
  }
  if (tooDeep(text)) return { problem: `the body is nested deeper than ${MAX_DEPTH}` };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { problem: `the body is not JSON: ${(error as Error).message.slice(0, 120)}` };
  }
  const key = forbiddenKey(value);
  return key === null ? { value } : { problem: `the key ${JSON.stringify(key)} is refused` };
}

/** Before parsing: brackets outside strings, counted. */
function tooDeep(text: string): boolean {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i += 1) {
    const c = text.charCodeAt(i);
    if (inString) {
      if (c === 0x5c) i += 1;
      else if (c === 0x22) inString = false;
    } else if (c === 0x22) inString = true;
    else if (c === 0x5b || c === 0x7b) {
      depth += 1;
      if (depth > MAX_DEPTH) return true;
    } else if (c === 0x5d || c === 0x7d) depth -= 1;
  }
  return false;
}

function forbiddenKey(value: unknown): string | null {
  if (value === null || typeof value !== "object") return null;
  for (const [key, each] of Object.entries(value)) {
    if (!Array.isArray(value) && FORBIDDEN.has(key)) return key;
    const inside = forbiddenKey(each);
    if (inside !== null) return inside;
  }
  return null;
}
