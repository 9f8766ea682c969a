/** What was typed -> the body of a request. The last word on every value is the daemon's; here mistakes get their sentence early. */
import { WaverError } from "../plugins/errors.ts";
import type { Field, Shape, SlotOption, SlotShape } from "./flags.ts";
import { nearest } from "./nearest.ts";
import { listOf, located, type Meaning, meaningOf, parsedValue, type Schema } from "./schema.ts";

type Bag = Record<string, unknown>;

/** A flag or an argument in the order in which it was typed. */
export type Token =
  | { readonly type: "flag"; readonly flag: string; readonly input: string }
  /** Of a list that words fill, oclif names the argument for the first word alone. */
  | { readonly type: "arg"; readonly arg: string | undefined; readonly input: string };

export interface Given {
  readonly tokens: readonly Token[];
  /** Of `--input`; flags win over it. */
  readonly base: Readonly<Bag>;
  /** Folder that relative paths start from; null when the daemon is another machine's. */
  readonly cwd: string | null;
}

export function bodyOf(shape: Shape, { tokens, base, cwd }: Given): Bag {
  const body: Bag = structuredClone(base) as Bag;
  const fields = new Map(shape.fields.map((field) => [field.flag, field]));
  const started = new Set<string>();
  for (const token of tokens) {
    const name = token.type === "flag" ? token.flag : (token.arg ?? shape.positional.at(-1)?.flag);
    const field = fields.get(name ?? "");
    if (field !== undefined) put(body, field, token, started, shape.root, cwd);
  }
  for (const slot of shape.slots) {
    const picks = picksOf(slot, tokens, shape.operation, cwd);
    if (picks.length > 0) body[slot.name] = slot.many ? picks : picks[0];
  }
  for (const field of shape.fields)
    if (field.required && at(body, field.path) === undefined) throw needed(shape, field);
  if (cwd !== null) for (const field of shape.fields) if (!started.has(field.flag)) locate(body, field, cwd);
  return body;
}

/** Paths in a body that came from a file start where the command was given, as those of flags do. */
function locate(body: Bag, { path, meaning }: Field, cwd: string): void {
  const name = path.at(-1) as string;
  // A default that is a relative path means a place here, not in the daemon's folder.
  const fallback = path.length === 1 && meaning.schema.format === "path" ? meaning.schema.default : undefined;
  const value = at(body, path) ?? fallback;
  if (typeof value === "string") set(body, path, located(value, name, meaning, cwd));
  else if (Array.isArray(value) && meaning.item !== null) set(body, path, placed(value, name, meaning.item, cwd));
}

function needed(shape: Shape, { path, flag, meaning }: Field): WaverError {
  const name = path.join(".");
  const words = meaning.schema.description;
  const isArgument = shape.positional.some((field) => field.flag === flag);
  const how = isArgument ? `${flag.toUpperCase()}${meaning.kind === "list" ? "..." : ""}` : `--${flag} ...`;
  return new WaverError("invalid_input", `${shape.operation} needs ${name}${words === undefined ? "" : `: ${words}`}`, {
    hint: `waver ${shape.operation} ${how}; all options: waver ${shape.operation} --help`,
  });
}

function put(body: Bag, field: Field, token: Token, started: Set<string>, root: Schema, cwd: string | null): void {
  const { path, meaning, flag } = field;
  const name = token.type === "flag" ? `--${flag}` : flag.toUpperCase();
  const isFirst = !started.has(flag);
  started.add(flag);
  if (meaning.kind === "list" && meaning.item !== null) {
    const values = placed(listOf(token.input, meaning, name, root), path.at(-1) as string, meaning.item, cwd);
    const before = isFirst ? [] : (at(body, path) as unknown[]);
    set(body, path, [...before, ...values]);
    return;
  }
  const value = scalar(token, meaning, name, path.at(-1) as string, root, cwd);
  // A word stands for a whole group: a part of it beside it would undo it, or be undone.
  const beside = typeof value === "string" && [...started].some((each) => each.startsWith(`${flag}.`));
  if (typeof at(body, path.slice(0, -1)) === "string" || beside)
    throw new WaverError("invalid_input", `${name}: a group is said by a word or part by part, not both`, {
      hint: "leave one of them out",
    });
  set(body, path, value);
}

function scalar(
  token: Token,
  meaning: Meaning,
  name: string,
  field: string,
  root: Schema,
  cwd: string | null,
): unknown {
  if (meaning.kind === "boolean" && token.type === "flag" && token.input.startsWith("-"))
    return !token.input.startsWith("--no-");
  const value = parsedValue(token.input, meaning, name, root);
  return typeof value === "string" && cwd !== null ? located(value, field, meaning, cwd) : value;
}

const placed = (values: readonly unknown[], field: string, item: Meaning, cwd: string | null): unknown[] =>
  values.map((value) => (typeof value === "string" && cwd !== null ? located(value, field, item, cwd) : value));

/** Picks of one slot: an id opens one, options after it belong to it. */
function picksOf(slot: SlotShape, tokens: readonly Token[], operation: string, cwd: string | null): Bag[] {
  const picks: Bag[] = [];
  const before: { flag: string; token: Token }[] = [];
  for (const token of tokens) {
    if (token.type !== "flag") continue;
    if (token.flag === slot.flag) {
      const pick = { id: known(slot, token.input) };
      if (!slot.many && picks.length > 0)
        throw new WaverError("invalid_input", `--${slot.flag} takes one provider`, {
          hint: `given: ${picks[0]?.["id"]}, ${token.input}`,
        });
      picks.push(pick);
    } else if (slot.options.has(token.flag)) {
      const pick = picks.at(-1);
      if (pick === undefined || !slot.many) before.push({ flag: token.flag, token });
      else option(slot, pick, token.flag, token, operation, cwd);
    }
  }
  if (before.length === 0) return picks;
  if (slot.many && picks.length === 0)
    throw new WaverError("invalid_input", `--${before[0]?.flag} belongs to a provider that must be named before it`, {
      hint: `--${slot.flag} ID --${before[0]?.flag} VALUE; ids: ${slot.providers.join(", ")}`,
    });
  // Of a single slot the order does not matter; without an id the daemon's default is meant.
  const pick = picks[0] ?? {};
  for (const each of before) option(slot, pick, each.flag, each.token, operation, cwd);
  return picks.length > 0 ? picks : [pick];
}

function known(slot: SlotShape, id: string): string {
  if (slot.providers.includes(id)) return id;
  const near = nearest(id, slot.providers);
  throw new WaverError("no_provider", `--${slot.flag}: no provider is named ${id}`, {
    hint: near === null ? `known: ${slot.providers.join(", ") || "none"}` : `did you mean ${near}?`,
  });
}

function option(slot: SlotShape, pick: Bag, flag: string, token: Token, operation: string, cwd: string | null): void {
  const variants = slot.options.get(flag) ?? [];
  const id = (pick["id"] as string | undefined) ?? (slot.default as { id?: string } | undefined)?.id;
  const chosen = variants.find((each) => each.provider === id) ?? (id === undefined ? variants[0] : undefined);
  if (chosen === undefined) {
    const own = [...slot.options]
      .filter(([, each]) => each.some(({ provider }) => provider === id))
      .map(([name]) => name);
    const near = nearest(flag, own);
    throw new WaverError("unknown_option", `${operation}: ${id} has no option --${flag}`, {
      hint:
        near === null
          ? `its options: ${own.map((name) => `--${name}`).join(", ") || "none"}`
          : `did you mean --${near}?`,
    });
  }
  const { meaning, root, path } = chosen satisfies SlotOption;
  const name = `--${flag}`;
  const value =
    meaning.kind === "list"
      ? placed(
          listOf(token.input, meaning, name, root),
          path.at(-1) as string,
          meaning.item ?? meaningOf({}, root),
          cwd,
        )
      : scalar(token, meaning, name, path.at(-1) as string, root, cwd);
  const earlier = at(pick, path);
  set(pick, path, Array.isArray(value) && Array.isArray(earlier) ? [...earlier, ...value] : value);
}

function at(bag: Bag, path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (value, key) => (value !== null && typeof value === "object" ? (value as Bag)[key] : undefined),
    bag,
  );
}

function set(bag: Bag, path: readonly string[], value: unknown): void {
  const [key, ...rest] = path as [string, ...string[]];
  if (rest.length === 0) {
    bag[key] = value;
    return;
  }
  const inner = bag[key];
  const next: Bag = inner !== null && typeof inner === "object" && !Array.isArray(inner) ? (inner as Bag) : {};
  bag[key] = next;
  set(next, rest, value);
}
