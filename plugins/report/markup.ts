/**
 * HTML and SVG as values: `html` escapes every string put into it, so that a caption or a file name can never become
 * markup. Attributes must be written in double quotes.
 */
const SAFE: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

export class Markup {
  constructor(readonly text: string) {}
  toString(): string {
    return this.text;
  }
}

export type Part = Markup | string | number | null | undefined | false | readonly Part[];

// Control characters are not allowed in HTML even when escaped.
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g;

export const escaped = (text: string): string =>
  text.replace(CONTROL, "").replace(/[&<>"']/g, (letter) => SAFE[letter] as string);

function written(part: Part): string {
  if (part instanceof Markup) return part.text;
  if (part === null || part === undefined || part === false) return "";
  if (Array.isArray(part)) return part.map(written).join("");
  return escaped(String(part));
}

/** A piece of markup; interpolated strings are escaped, pieces and lists of pieces are kept. */
export const html = (texts: TemplateStringsArray, ...parts: readonly Part[]): Markup =>
  new Markup(texts.reduce((out, text, i) => out + text + (i < parts.length ? written(parts[i]) : ""), ""));

/** A relative path as it may stand in an attribute. */
export const link = (path: string): string => path.split("/").map(encodeURIComponent).join("/");

export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`;

export function duration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${String(rest).padStart(2, "0")} s`;
}

export function memory(bytes: number): string {
  if (bytes <= 0) return "–";
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  return bytes >= 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`;
}

/** Three significant figures, no exponent for the sizes that measures have. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6
    ? String(Number(value.toPrecision(3)))
    : value.toExponential(2);
}
