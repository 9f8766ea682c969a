/** TypeScript declarations of the operations, printed from their JSON Schemas. */
import type { OperationsDoc } from "../wire.ts";

type Json = Readonly<Record<string, unknown>>;

export function printTypes(docs: OperationsDoc): string {
  const lines = [
    `// Made by \`waver client types\` from waver ${docs.version}, plugin set ${docs.pluginSet}. Make it again after plugins change.`,
    'import "waver/client";',
    "",
    'declare module "waver/client" {',
    "  interface OperationTypes {",
  ];
  for (const { name, kind, summary, input, output } of docs.operations)
    lines.push(
      `    /** ${summary.replaceAll("*/", "* /")} */`,
      `    ${key(name)}: {`,
      `      kind: ${JSON.stringify(kind)};`,
      `      body: ${indent(typeOf(input, input), 6)};`,
      `      output: ${indent(typeOf(output, output), 6)};`,
      "    };",
    );
  lines.push("  }", "}", "export {};", "");
  return lines.join("\n");
}

const key = (name: string): string => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name));
const indent = (text: string, by: number): string => text.replaceAll("\n", `\n${" ".repeat(by)}`);

/** A schema as a type expression. `root` resolves local references; a recursive one becomes `unknown` at its second turn. */
export function typeOf(schema: unknown, root: unknown, open: ReadonlySet<string> = new Set()): string {
  if (schema === true || schema === undefined) return "unknown";
  if (schema === false) return "never";
  const s = schema as Json;
  if (typeof s["$ref"] === "string") return referred(s["$ref"], root, open);
  if ("const" in s) return JSON.stringify(s["const"]);
  if (Array.isArray(s["enum"])) return union(s["enum"].map((value) => JSON.stringify(value)));
  for (const word of ["anyOf", "oneOf"] as const)
    if (Array.isArray(s[word])) return union(s[word].map((each) => typeOf(each, root, open)));
  if (Array.isArray(s["allOf"]))
    return s["allOf"].map((each) => grouped(typeOf(each, root, open))).join(" & ") || "unknown";
  const { type } = s;
  if (Array.isArray(type)) return union(type.map((each) => typeOf({ ...s, type: each }, root, open)));
  switch (type) {
    case "string":
      return "string";
    case "number":
    case "integer":
      return "number";
    case "boolean":
      return "boolean";
    case "null":
      return "null";
    case "array":
      return arrayOf(s, root, open);
    case "object":
      return objectOf(s, root, open);
    default:
      return "properties" in s ? objectOf(s, root, open) : "unknown";
  }
}

function arrayOf(s: Json, root: unknown, open: ReadonlySet<string>): string {
  if (Array.isArray(s["prefixItems"]))
    return `readonly [${s["prefixItems"].map((each) => typeOf(each, root, open)).join(", ")}]`;
  return `readonly ${grouped(typeOf(s["items"], root, open))}[]`;
}

function objectOf(s: Json, root: unknown, open: ReadonlySet<string>): string {
  const properties = Object.entries((s["properties"] ?? {}) as Record<string, Json>);
  const required = new Set((s["required"] ?? []) as string[]);
  const rest = s["additionalProperties"];
  if (properties.length === 0)
    return rest === false
      ? "Readonly<Record<string, never>>"
      : `Readonly<Record<string, ${rest === undefined ? "unknown" : typeOf(rest, root, open)}>>`;
  const lines = properties.flatMap(([name, each]) => {
    const description = each["description"];
    const note = typeof description === "string" ? [`  /** ${description.replaceAll("*/", "* /")} */`] : [];
    return [
      ...note,
      `  readonly ${key(name)}${required.has(name) ? "" : "?"}: ${indent(typeOf(each, root, open), 2)};`,
    ];
  });
  return `{\n${lines.join("\n")}\n}`;
}

function referred(ref: string, root: unknown, open: ReadonlySet<string>): string {
  if (!ref.startsWith("#") || open.has(ref)) return "unknown";
  let at = root;
  for (const part of ref.split("/").slice(1))
    at = (at as Json | undefined)?.[part.replaceAll("~1", "/").replaceAll("~0", "~")];
  return typeOf(at, root, new Set([...open, ref]));
}

const grouped = (text: string): string => (text.includes(" | ") || text.includes(" & ") ? `(${text})` : text);
const union = (parts: readonly string[]): string => [...new Set(parts)].join(" | ") || "never";
