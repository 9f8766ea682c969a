/** The end of a job for people: what was written, what was measured. Shapes are all it knows of an output, no operation by name. */
import { homedir } from "node:os";
import { isAbsolute, relative } from "node:path";
import type { JobView } from "../daemon/wire.ts";
import { bytes, clock, flops, numberText, padEnd, padStart, plain, type Style, widthOf } from "./style.ts";

type Bag = Readonly<Record<string, unknown>>;

export function summaryOf({ operation, id, reused, seconds, peakBytes, output }: JobView, style: Style): string {
  const { green, bold, dim, signs } = style;
  const sign = green(reused ? signs.reused : signs.done);
  const how = reused
    ? "nothing has changed: the earlier result is reused"
    : [`done in ${clock(seconds)}`, ...(peakBytes > 0 ? [`${bytes(peakBytes)} at most`] : [])].join(", ");
  const head = `${sign} ${bold(operation)}  ${how}  ${dim(id)}`;
  const body = outputLines(output, style);
  return body.length === 0 ? head : `${head}\n${body.join("\n")}`;
}

/** An output as lines of `name  value`, nested ones indented. */
export function outputLines(output: unknown, style: Style): string[] {
  if (output === undefined || output === null) return [];
  return isBag(output) ? bagLines(output, "  ", style) : [`  ${valueText(output, style)}`];
}

const MOST_ROWS = 12;

function bagLines(bag: Bag, indent: string, style: Style): string[] {
  const entries = Object.entries(bag).filter(([, value]) => value !== undefined && value !== null && !isEmpty(value));
  const width = Math.min(
    26,
    Math.max(0, ...entries.filter(([, value]) => isShort(value)).map(([key]) => widthOf(words(key)))),
  );
  return entries.flatMap(([key, value]): string[] => {
    const name = words(key);
    if (isShort(value)) return [`${indent}${style.dim(padEnd(name, width))}  ${valueText(value, style, key)}`];
    if (Array.isArray(value)) {
      if (value.every(isBag)) return [`${indent}${style.dim(name)}`, ...table(value, `${indent}  `, style)];
      const shown = value.slice(0, MOST_ROWS).map((each) => `${indent}  ${valueText(each, style, key)}`);
      return [`${indent}${style.dim(name)}`, ...shown, ...more(value.length, indent, style)];
    }
    return [`${indent}${style.dim(name)}`, ...bagLines(value as Bag, `${indent}  `, style)];
  });
}

/** Rows with the same fields as columns; what lies deeper is left out of it, but for errors. */
function table(rows: readonly Bag[], indent: string, style: Style): string[] {
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))]
    .filter((key) => rows.some((row) => isScalar(row[key]) || isError(row[key])))
    .slice(0, 6);
  const shown = rows.slice(0, MOST_ROWS);
  const cells = shown.map((row) =>
    keys.map((key) => {
      const value = row[key];
      if (isError(value)) return plain(`${value.code}: ${value.message}`);
      return isScalar(value) ? valueText(value, { ...style, cyan: (text) => text }, key) : "";
    }),
  );
  const widths = keys.map((key, i) => Math.max(widthOf(words(key)), ...cells.map((row) => widthOf(row[i] ?? ""))));
  const numeric = keys.map((key) => rows.every((row) => row[key] === undefined || typeof row[key] === "number"));
  const line = (texts: readonly string[]): string =>
    `${indent}${texts.map((text, i) => (numeric[i] ? padStart : padEnd)(text, widths[i] ?? 0)).join("  ")}`.trimEnd();
  return [style.dim(line(keys.map(words))), ...cells.map(line), ...more(rows.length, indent, style)];
}

const more = (count: number, indent: string, { dim }: Style): string[] =>
  count > MOST_ROWS ? [dim(`${indent}  and ${count - MOST_ROWS} more`)] : [];

function valueText(value: unknown, style: Style, key = ""): string {
  const { cyan, dim } = style;
  if (typeof value === "number") return (UNITS.find(([pattern]) => pattern.test(key))?.[1] ?? numberText)(value);
  if (typeof value === "string")
    return isAbsolute(value) ? cyan(nearPath(value)) : plain(DIGEST.test(value) ? `${value.slice(0, 19)}...` : value);
  if (Array.isArray(value)) return value.map((each) => valueText(each, style, key)).join(" ");
  return typeof value === "object" ? dim(plain(JSON.stringify(value))) : String(value);
}

const UNITS = [
  [/bytes$/i, bytes],
  [/seconds$/i, clock],
  [/flops$/i, flops],
] as const;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** The shorter of the absolute path and the one from here. */
function nearPath(path: string): string {
  const here = relative(process.cwd(), path);
  const home = homedir();
  const absolute = home !== "/" && path.startsWith(`${home}/`) ? `~${path.slice(home.length)}` : path;
  return plain(here !== "" && !here.startsWith("..") ? here : absolute);
}

/** `numClips` -> `clips`, `peakBytes` -> `peak bytes`; what is words already stays as it is. */
const words = (key: string): string =>
  plain(
    key.includes(" ")
      ? key
      : key
          .replace(/^num(?=[A-Z])/, "")
          .replace(/([a-z0-9])([A-Z])/g, "$1 $2")
          .replaceAll("_", " ")
          .toLowerCase(),
  );

const isBag = (value: unknown): value is Bag => value !== null && typeof value === "object" && !Array.isArray(value);
/** Why a part of a batch was left out. */
const isError = (value: unknown): value is { code: string; message: string } =>
  isBag(value) && typeof value["code"] === "string" && typeof value["message"] === "string";
const isScalar = (value: unknown): boolean =>
  typeof value === "string" || typeof value === "number" || typeof value === "boolean";
const isEmpty = (value: unknown): boolean =>
  value === "" || (Array.isArray(value) && value.length === 0) || (isBag(value) && Object.keys(value).length === 0);
const isShort = (value: unknown): boolean =>
  isScalar(value) || (Array.isArray(value) && value.length <= 4 && value.every((each) => typeof each === "number"));
