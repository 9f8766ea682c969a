/**
 * A whole request from a file: `FILE`, `FILE#NAME` for one of several, or `-` for JSON on standard input. Recipes are
 * JSON, YAML or TypeScript that evaluates to plain data; one that is about more than one operation holds the request
 * under the operation's name.
 */
import { existsSync, readFileSync } from "node:fs";
import { extname, resolve } from "node:path";
import { WaverError } from "../plugins/errors.ts";
import { nearest } from "./nearest.ts";

type Bag = Record<string, unknown>;

export async function readRecipe(given: string, operation: string, cwd: string): Promise<Bag> {
  const [, path = given, name] = /^(.*?)(?:#([^#/]+))?$/.exec(given) ?? [];
  const whole = await contentOf(path, cwd);
  const value = name === undefined ? whole : part(whole, name, path);
  if (Array.isArray(value)) {
    const names = namesOf(value);
    throw new WaverError("invalid_input", `${path} holds several recipes`, {
      hint: `name one: --recipe ${path}#${names[0] ?? "NAME"}; there are ${names.join(", ")}`,
    });
  }
  if (!isBag(value)) throw new WaverError("invalid_input", `${path} must hold an object`);
  const own = value[operation];
  return isBag(own) ? own : value;
}

async function contentOf(path: string, cwd: string): Promise<unknown> {
  const file = resolve(cwd, path);
  if (path !== "-" && !existsSync(file))
    throw new WaverError("not_found", `--input: ${path} does not exist`, {
      hint: "check the path; - reads standard input",
    });
  try {
    switch (extname(path)) {
      case ".ts":
      case ".mts":
      case ".mjs":
      case ".js":
        return ((await import(file)) as { default?: unknown }).default;
      case ".yaml":
      case ".yml":
        return Bun.YAML.parse(readFileSync(file, "utf8"));
      default:
        return JSON.parse(readFileSync(path === "-" ? 0 : file, "utf8"));
    }
  } catch (error) {
    throw new WaverError(
      "invalid_input",
      `--input: ${path === "-" ? "standard input" : path} cannot be read: ${(error as Error).message.split("\n")[0]}`,
      { cause: error },
    );
  }
}

function part(whole: unknown, name: string, path: string): unknown {
  const found = Array.isArray(whole)
    ? whole.find((each) => isBag(each) && each["name"] === name)
    : isBag(whole)
      ? whole[name]
      : undefined;
  if (found !== undefined) return found;
  const names = Array.isArray(whole) ? namesOf(whole) : Object.keys(isBag(whole) ? whole : {});
  const near = nearest(name, names);
  throw new WaverError("not_found", `${path} has no recipe ${name}`, {
    hint: near === null ? `there are ${names.join(", ") || "none"}` : `did you mean ${near}?`,
  });
}

const namesOf = (list: readonly unknown[]): string[] =>
  list.flatMap((each) => (isBag(each) && typeof each["name"] === "string" ? [each["name"]] : []));
const isBag = (value: unknown): value is Bag => value !== null && typeof value === "object" && !Array.isArray(value);
