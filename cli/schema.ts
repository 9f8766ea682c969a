/** The part of JSON Schema that operations use: what a field is, in words for help, and a text from the command line as its value. */

import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { WaverError } from "../plugins/errors.ts";

export interface Schema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly format?: string;
  readonly positional?: number;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema | false;
  readonly prefixItems?: readonly Schema[];
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  readonly $ref?: string;
  readonly $defs?: Readonly<Record<string, Schema>>;
}

/** How a field is written on a command line. `json`: whatever cannot be said in one word. */
export type Kind =
  | "text"
  | "number"
  | "integer"
  | "boolean"
  | "choice"
  | "list"
  | "tuple"
  | "group"
  | "either"
  | "json";

export interface Meaning {
  readonly kind: Kind;
  /** Without null and references. */
  readonly schema: Schema;
  /** Whether null is a value of it; written `null`. */
  readonly nullable: boolean;
  /** Words that it takes; of a group, those that stand for the whole. */
  readonly choices: readonly string[];
  /** Of a list. */
  readonly item: Meaning | null;
}

export function meaningOf(given: Schema, root: Schema): Meaning {
  const whole = dereferenced(given, root);
  const schema = withoutNull(whole, root);
  const of = (kind: Kind, more: Partial<Meaning> = {}): Meaning => ({
    kind,
    schema,
    nullable: schema !== whole,
    choices: [],
    item: null,
    ...more,
  });
  if (schema.const !== undefined) return of("choice", { choices: [String(schema.const)] });
  if (schema.enum !== undefined) return of("choice", { choices: schema.enum.map(String) });
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives !== undefined) {
    const kinds = alternatives.map((each) => meaningOf(each, root));
    if (kinds.every((each) => each.kind === "choice"))
      return of("choice", { choices: kinds.flatMap((each) => each.choices) });
    // One thing or a list of them: written as a list.
    const list = kinds.find((each) => each.kind === "list");
    if (list !== undefined && kinds.every((each) => each === list || each.kind === list.item?.kind))
      return of("list", { item: list.item });
    // A group that also goes by a word.
    const group = kinds.find((each) => each.kind === "group");
    if (group !== undefined && kinds.every((each) => each === group || each.kind === "choice")) {
      const { anyOf: _, oneOf: __, ...own } = schema;
      return of("group", { schema: { ...group.schema, ...own }, choices: kinds.flatMap((each) => each.choices) });
    }
    return of(kinds.every((each) => SCALAR.has(each.kind)) ? "either" : "json");
  }
  switch (schema.type) {
    case "string":
      return of("text");
    case "number":
      return of("number");
    case "integer":
      return of("integer");
    case "boolean":
      return of("boolean");
    case "array": {
      if (schema.prefixItems !== undefined) return of("tuple");
      return of("list", {
        item: schema.items === undefined || schema.items === false ? of("json") : meaningOf(schema.items, root),
      });
    }
    case "object":
      return of(schema.properties !== undefined && Object.keys(schema.properties).length > 0 ? "group" : "json");
    default:
      return of("json");
  }
}

const SCALAR: ReadonlySet<Kind> = new Set(["text", "number", "integer", "boolean", "choice"]);

function dereferenced(schema: Schema, root: Schema): Schema {
  const name = /^#\/\$defs\/(.+)$/.exec(schema.$ref ?? "")?.[1];
  const found = name === undefined ? undefined : root.$defs?.[name];
  return found === undefined ? schema : { ...dereferenced(found, root), ...withoutRef(schema) };
}

function withoutRef({ $ref: _, ...rest }: Schema): Schema {
  return rest;
}

function withoutNull(schema: Schema, root: Schema): Schema {
  if (Array.isArray(schema.type)) {
    const types = schema.type.filter((each) => each !== "null");
    return types.length === 1 ? { ...schema, type: types[0] as string } : schema;
  }
  const some = schema.anyOf?.filter((each) => each.type !== "null");
  if (some === undefined || some.length === schema.anyOf?.length) return schema;
  const { anyOf: _, ...rest } = schema;
  return some.length === 1
    ? { ...withoutNull(dereferenced(some[0] as Schema, root), root), ...rest }
    : { ...rest, anyOf: some };
}

/** One value from one text. `name` is what a message calls the field. */
export function parsedValue(text: string, meaning: Meaning, name: string, root: Schema): unknown {
  if (meaning.nullable && text === "null") return null;
  switch (meaning.kind) {
    case "text":
      return text;
    case "number":
    case "integer":
      return numberOf(text, meaning, name);
    case "boolean":
      if (text === "true" || text === "false") return text === "true";
      throw wrong(name, text, "true or false");
    case "choice": {
      if (!meaning.choices.includes(text)) throw wrong(name, text, `one of ${meaning.choices.join(", ")}`);
      const numbers = (meaning.schema.enum ?? [meaning.schema.const]).every((each) => typeof each === "number");
      return numbers ? Number(text) : text;
    }
    case "tuple": {
      if (text.startsWith("[")) return jsonOf(text, name);
      const parts = text.split(text.includes(",") ? "," : /(?<=\d)x(?=\d)/);
      const schemas = meaning.schema.prefixItems ?? [];
      if (parts.length !== schemas.length) throw wrong(name, text, `${schemas.length} values with commas between them`);
      return parts.map((part, i) => parsedValue(part.trim(), meaningOf(schemas[i] as Schema, root), name, root));
    }
    case "either":
      return /^(-?\d+(\.\d+)?([eE][-+]?\d+)?|true|false)$/.test(text) ? JSON.parse(text) : text;
    case "group": {
      const { choices } = meaning;
      if (choices.includes(text)) return text;
      if (choices.length > 0 && !text.startsWith("{")) throw wrong(name, text, `one of ${choices.join(", ")}, or JSON`);
      const [, width, height] = /^(\d+)x(\d+)$/.exec(text) ?? [];
      const isSize = ["width", "height"].every((each) => meaning.schema.properties?.[each] !== undefined);
      return isSize && width !== undefined ? { width: Number(width), height: Number(height) } : jsonOf(text, name);
    }
    case "list":
    case "json":
      return jsonOf(text, name);
  }
}

/** The values that one appearance of a list flag adds: `--seed 1,2,3` is three of them, a text is always one. */
export function listOf(text: string, list: Meaning, name: string, root: Schema): unknown[] {
  if (text.startsWith("[")) {
    const value = jsonOf(text, name);
    if (Array.isArray(value)) return value;
  }
  const item = list.item;
  if (item === null) return [jsonOf(text, name)];
  const splits = item.kind === "number" || item.kind === "integer" || item.kind === "choice";
  return (splits ? text.split(",") : [text]).map((part) => parsedValue(splits ? part.trim() : part, item, name, root));
}

function numberOf(text: string, { kind, schema }: Meaning, name: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value))
    throw wrong(name, text, kind === "integer" ? "a whole number" : "a number");
  if (kind === "integer" && !Number.isSafeInteger(value)) throw wrong(name, text, "a whole number");
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema;
  if (minimum !== undefined && value < minimum) throw wrong(name, text, `at least ${minimum}`);
  if (maximum !== undefined && value > maximum) throw wrong(name, text, `at most ${maximum}`);
  if (exclusiveMinimum !== undefined && value <= exclusiveMinimum)
    throw wrong(name, text, `more than ${exclusiveMinimum}`);
  if (exclusiveMaximum !== undefined && value >= exclusiveMaximum)
    throw wrong(name, text, `less than ${exclusiveMaximum}`);
  return value;
}

function jsonOf(text: string, name: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The parser's own words speak of positions; what a person needs is that JSON was expected here.
    throw wrong(name, text, "JSON");
  }
}

const wrong = (name: string, text: string, expected: string): WaverError =>
  new WaverError(
    "invalid_input",
    `${name} is ${expected}, not ${JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}...` : text)}`,
  );

/** Sentences and names, whatever file may be called so. */
const WORDS = /(prompt|text|caption|words|instruction|name|^id|^tag|^kind|licen[cs]e)$/i;
/** Names of built-in things as well as paths: only what looks like a path is one. */
const NAMES = /(recipe|stage|package)$/i;
const FILES = /(^|[a-z])(output|out|folder|directory|dir|file|path|source|video|image|weights|latents)s?$/i;

/**
 * A relative path made absolute: the daemon has another working folder. A schema says so with `format: "path"`;
 * where it is silent, what is called or looks like a path, or names something that is here, is one.
 */
export function located(text: string, field: string, { schema, kind }: Meaning, cwd: string): string {
  // A scheme is no path; a number after a colon is a weight (`style.safetensors:0.8`).
  if (kind !== "text" || text === "" || /^(sha256:|[a-z][a-z0-9+.-]*:(?![-+]?[\d.]+$))/i.test(text)) return text;
  const expanded = text === "~" || text.startsWith("~/") ? join(homedir(), text.slice(1)) : text;
  // A slash at the end says that a folder is meant, which may not be there yet.
  const absolute = resolve(cwd, expanded) + (expanded.endsWith("/") && expanded !== "/" ? "/" : "");
  if (schema.format === "path") return absolute;
  // A model goes by its name, unless it is written as a place or lies here.
  if (schema.format === "model") return /[/\\]/.test(expanded) || existsSync(absolute) ? absolute : text;
  if (schema.format !== undefined || WORDS.test(field)) return text;
  const looks =
    expanded !== text ||
    /^\.{0,2}\//.test(expanded) ||
    expanded === "." ||
    expanded === ".." ||
    /^\S*\.[a-z][a-z0-9]{1,4}$/i.test(expanded);
  const isFile = FILES.test(field) || (!NAMES.test(field) && existsSync(resolve(cwd, expanded)));
  return looks || isFile ? absolute : text;
}
