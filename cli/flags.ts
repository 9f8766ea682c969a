/** JSON Schema -> oclif flags and arguments: the only file that knows both. What was given goes back through body.ts. */
import { Args, Flags, type Interfaces } from "@oclif/core";
import type { OperationDoc, ProviderDoc } from "../daemon/wire.ts";
import { type Meaning, meaningOf, type Schema } from "./schema.ts";

/** A field of an operation's input that has a flag. Fields of nested objects have one each. */
export interface Field {
  /** Where the value goes in the body. */
  readonly path: readonly string[];
  readonly flag: string;
  readonly meaning: Meaning;
  readonly required: boolean;
}

/** One option of one provider. */
export interface SlotOption {
  readonly provider: string;
  readonly path: readonly string[];
  readonly meaning: Meaning;
  readonly root: Schema;
}

export interface SlotShape {
  readonly name: string;
  readonly flag: string;
  readonly many: boolean;
  readonly providers: readonly string[];
  readonly default: unknown;
  /** By flag, e.g. `guide.scale`; several providers may have an option of one name. */
  readonly options: ReadonlyMap<string, readonly SlotOption[]>;
}

/** What the command line of one operation looks like. */
export interface Shape {
  readonly operation: string;
  readonly root: Schema;
  readonly fields: readonly Field[];
  /** Fields that are also arguments, in their order. */
  readonly positional: readonly Field[];
  readonly slots: readonly SlotShape[];
}

/** Fields that everybody would write without a flag; a schema may say `positional` itself. */
const OBVIOUS = ["prompt", "sources", "target", "video"];

export const kebab = (name: string): string => name.replace(/([a-z0-9])([A-Z])/g, "$1-$2").toLowerCase();

export function shapeOf(operation: OperationDoc, providers: readonly ProviderDoc[], named?: readonly string[]): Shape {
  // Wire documents carry JSON Schema as plain data.
  const root = operation.input as Schema;
  const slots = Object.keys(operation.slots);
  const fields = fieldsOf(root, root, [], new Set([...slots, ...RESERVED]));
  const positional = positionalOf(
    fields.filter(({ path }) => path.length === 1),
    named,
  );
  return {
    operation: operation.name,
    root,
    fields,
    positional,
    slots: slots.map((name) => slotShape(name, operation, providers)),
  };
}

/** By name only one is obvious; by the schema's or the caller's own word as many as they say. */
function positionalOf(fields: readonly Field[], named: readonly string[] | undefined): Field[] {
  const by = (place: (field: Field) => number): Field[] =>
    fields.filter((field) => place(field) >= 0).sort((a, b) => place(a) - place(b));
  if (named !== undefined) return by(({ path }) => named.indexOf(path[0] ?? ""));
  const said = by(({ meaning }) => meaning.schema.positional ?? -1);
  return said.length > 0
    ? said
    : by(({ path, meaning }) => (meaning.kind === "group" ? -1 : OBVIOUS.indexOf(path[0] ?? ""))).slice(0, 1);
}

/** Names that are the command line's own, whatever an operation calls its fields: those are still reachable through --input. */
const RESERVED: readonly string[] = [
  "help",
  "json",
  "url",
  "token",
  "home",
  "detach",
  "input",
  "cancelOnInterrupt",
  "verbose",
  "priority",
];

function fieldsOf(
  schema: Schema,
  root: Schema,
  above: readonly string[],
  leftOut: ReadonlySet<string>,
  needed = true,
): Field[] {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).flatMap(([name, given]): Field[] => {
    if (above.length === 0 && leftOut.has(name)) return [];
    const path = [...above, name];
    const meaning = meaningOf(given, root);
    const isNeeded = needed && required.has(name) && given.default === undefined;
    const inner =
      meaning.kind === "group" && path.length < 4 ? fieldsOf(meaning.schema, root, path, leftOut, isNeeded) : [];
    const own = { path, flag: path.map(kebab).join("."), meaning, required: isNeeded };
    // A group is also a flag of its own, which takes the whole of it as JSON. What it needs is said by its fields.
    return inner.some((field) => field.required) ? [{ ...own, required: false }, ...inner] : [own, ...inner];
  });
}

function slotShape(name: string, operation: OperationDoc, providers: readonly ProviderDoc[]): SlotShape {
  const slot = operation.slots[name] as OperationDoc["slots"][string];
  const choices = providers.filter((each) => each.hook === slot.hook);
  const flag = kebab(name);
  const options = new Map<string, SlotOption[]>();
  for (const provider of choices) {
    const root = provider.options as Schema;
    for (const field of fieldsOf(root, root, [], new Set())) {
      const key = `${flag}.${field.flag}`;
      options.set(key, [
        ...(options.get(key) ?? []),
        { provider: provider.id, path: field.path, meaning: field.meaning, root },
      ]);
    }
  }
  return { name, flag, many: slot.many, providers: choices.map((each) => each.id), default: slot.default, options };
}

export function flagsOf(shape: Shape, operation: OperationDoc): Interfaces.FlagInput {
  const flags: Interfaces.FlagInput = {};
  const positional = new Set(shape.positional.map((field) => field.flag));
  for (const { flag, meaning, required } of shape.fields) {
    const hidden = positional.has(flag) || isWhole(meaning);
    flags[flag] = flagOf(meaning, { description: `${required ? "(needed) " : ""}${described(meaning)}`, hidden });
  }
  for (const slot of shape.slots) {
    const { summary } = operation.slots[slot.name] as OperationDoc["slots"][string];
    const helpGroup = slot.flag;
    const chosen = defaultIds(slot.default);
    flags[slot.flag] = Flags.string({
      helpGroup,
      helpValue: "<id>",
      description: `${summary}; ${slot.many ? "any of" : "one of"} ${slot.providers.join(", ") || "nothing that is installed"}${chosen === "" ? "" : ` [default: ${chosen}]`}`,
      ...(slot.many ? { multiple: true, multipleNonGreedy: true } : {}),
    } as { description: string });
    for (const [name, variants] of slot.options) {
      const [first] = variants;
      if (first === undefined) continue;
      const same = variants.every((each) => each.meaning.kind === first.meaning.kind);
      const whose =
        variants.length === slot.providers.length && slot.providers.length > 1
          ? ""
          : `${variants.map((each) => each.provider).join(", ")}: `;
      const how = {
        description: `${whose}${described(first.meaning)}`,
        hidden: isWhole(first.meaning),
        helpGroup,
      };
      flags[name] = slot.many || !same ? textFlag(how, true, first.meaning) : flagOf(first.meaning, how);
    }
  }
  return flags;
}

export function argsOf(shape: Shape): Interfaces.ArgInput {
  return Object.fromEntries(
    shape.positional.map(({ flag, meaning }, i) => {
      const multiple = meaning.kind === "list" && i === shape.positional.length - 1;
      return [
        flag,
        Args.string({ description: described(meaning), ignoreStdin: true, ...(multiple ? { multiple: true } : {}) } as {
          description: string;
        }),
      ];
    }),
  );
}

interface How {
  readonly description: string;
  readonly hidden: boolean;
  readonly helpGroup?: string;
}

function flagOf(meaning: Meaning, how: How): Interfaces.FlagInput[string] {
  if (meaning.kind === "boolean") return Flags.boolean({ ...how, allowNo: true });
  return textFlag(how, meaning.kind === "list", meaning);
}

/** A group of which nothing but JSON says the whole: its fields are what a person writes. */
const isWhole = ({ kind, choices }: Meaning): boolean => kind === "group" && choices.length === 0;

/** Values are checked in body.ts, where messages can name the field and say what was expected. */
function textFlag(how: How, multiple: boolean, meaning: Meaning): Interfaces.FlagInput[string] {
  const helpValue = `<${PLACEHOLDER[meaning.kind === "group" && !isWhole(meaning) ? "choice" : meaning.kind]}>`;
  // Non-greedy: `--seed 1 "a prompt"` must leave the prompt alone.
  return multiple
    ? Flags.string({ ...how, helpValue, multiple: true, multipleNonGreedy: true })
    : Flags.string({ ...how, helpValue });
}

const PLACEHOLDER: Readonly<Record<Meaning["kind"], string>> = {
  text: "text",
  number: "number",
  integer: "n",
  boolean: "true|false",
  choice: "word",
  list: "value...",
  tuple: "a,b",
  group: "json",
  either: "value",
  json: "json",
};

/** Help text of a field: its own words, its choices and what it is when nothing is said. */
function described(meaning: Meaning): string {
  const { schema, choices, item } = meaning;
  const words = schema.description ?? "";
  const among = choices.length > 0 ? choices : (item?.choices ?? []);
  const list = among.length > 0 ? `${words === "" ? "" : "; "}one of ${among.join(", ")}` : "";
  const range = rangeOf(item?.schema ?? schema);
  const fallback =
    schema.default === undefined || typeof schema.default === "object" ? "" : ` [default: ${String(schema.default)}]`;
  return `${words}${list}${range === "" ? "" : ` (${range})`}${fallback}`.trim();
}

function rangeOf({ minimum, maximum, exclusiveMinimum }: Schema): string {
  const real = (n: number | undefined): n is number => n !== undefined && Math.abs(n) < Number.MAX_SAFE_INTEGER;
  const low = real(minimum) ? `${minimum}` : real(exclusiveMinimum) ? `>${exclusiveMinimum}` : "";
  if (low !== "" && real(maximum)) return `${low} to ${maximum}`;
  if (real(maximum)) return `at most ${maximum}`;
  return low === "" ? "" : low.startsWith(">") ? low : `at least ${low}`;
}

function defaultIds(given: unknown): string {
  const picks = Array.isArray(given) ? given : given === undefined || given === null ? [] : [given];
  return picks
    .map((pick: unknown) => (typeof pick === "string" ? pick : String((pick as { id?: unknown }).id ?? "")))
    .join(", ");
}
