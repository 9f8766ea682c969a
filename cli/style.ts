/** Colours and signs a terminal can show. Colour never carries meaning alone. */

export interface Style {
  readonly colour: boolean;
  readonly unicode: boolean;
  readonly bold: (text: string) => string;
  readonly dim: (text: string) => string;
  readonly red: (text: string) => string;
  readonly green: (text: string) => string;
  readonly yellow: (text: string) => string;
  readonly cyan: (text: string) => string;
  readonly signs: {
    readonly done: string;
    readonly failed: string;
    readonly warn: string;
    readonly reused: string;
    readonly now: string;
    readonly ellipsis: string;
    readonly dot: string;
  };
}

type Env = Readonly<Record<string, string | undefined>>;

/** NO_COLOR (any value) and TERM=dumb switch colours off, FORCE_COLOR switches them on for a pipe. */
export function styleOf(stream: { readonly isTTY?: boolean }, env: Env = process.env): Style {
  const forced = env["FORCE_COLOR"] !== undefined && env["FORCE_COLOR"] !== "0";
  const refused = (env["NO_COLOR"] ?? "") !== "" || env["TERM"] === "dumb";
  const colour = !refused && (forced || stream.isTTY === true);
  const unicode = isUnicode(env);
  const paint = (open: number, close: number) => (text: string) =>
    colour ? `\u001b[${open}m${text}\u001b[${close}m` : text;
  return {
    colour,
    unicode,
    bold: paint(1, 22),
    dim: paint(2, 22),
    red: paint(31, 39),
    green: paint(32, 39),
    yellow: paint(33, 39),
    cyan: paint(36, 39),
    signs: unicode
      ? { done: "✓", failed: "✗", warn: "!", reused: "=", now: "›", ellipsis: "…", dot: "·" }
      : { done: "+", failed: "x", warn: "!", reused: "=", now: ">", ellipsis: "...", dot: "-" },
  };
}

/** POSIX: LC_ALL wins over LC_CTYPE, that over LANG; none of them set means the C locale, which is ASCII. */
function isUnicode(env: Env): boolean {
  if (env["TERM"] === "dumb" || env["TERM"] === "linux") return false;
  const locale = env["LC_ALL"] || env["LC_CTYPE"] || env["LANG"] || "";
  return /utf-?8/i.test(locale);
}

/** Columns that a text takes, colours left out. */
export const widthOf = (text: string): number => Bun.stringWidth(text);

export const padEnd = (text: string, columns: number): string =>
  text + " ".repeat(Math.max(0, columns - widthOf(text)));
export const padStart = (text: string, columns: number): string =>
  " ".repeat(Math.max(0, columns - widthOf(text))) + text;

/** `seconds` as people read a clock: 4.2 s, 1:53, 1:02:09. */
export function clock(seconds: number): string {
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n: number): string => String(n).padStart(2, "0");
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export const bytes = (count: number): string => scaled(count, ["B", "kB", "MB", "GB", "TB"]);
/** Floating-point operations, as many. */
export const flops = (count: number): string =>
  scaled(count, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"]);

function scaled(count: number, units: readonly string[]): string {
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function numberText(value: number): string {
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 || size < 0.001 ? value.toExponential(2) : value.toPrecision(4).replace(/\.?0+$/, "");
}

/** Control characters of foreign text (file names, prompts) made visible, so that they cannot drive the terminal. */
export const plain = (text: string): string => text.replace(/[\n\t]/g, " ").replace(/\p{Cc}/gu, "?");
