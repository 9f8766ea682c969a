/** From declarations to one schema a request body: fields of the operation, and one key a slot with a union over providers. */
import { z } from "zod";
import { type HookName, type Picks, type Slot, WaverError } from "../../plugins/index.ts";
import { didYouMean } from "./nearest.ts";
import type { ParsedBody } from "./registry.ts";

/** A provider as a body sees it. */
export interface Choice {
  readonly id: string;
  readonly options: z.ZodObject;
}

export interface BodyParts {
  readonly name: string;
  readonly input: z.ZodObject;
  readonly slots: Readonly<Record<string, Slot>>;
  /** Defaults of the configuration for this operation, by slot. */
  readonly defaults: Readonly<Record<string, unknown>>;
  readonly choices: (hook: HookName) => readonly Choice[];
}

type Bag = Record<string, unknown>;

/** A third party's options or input from its JSON Schema; what the schema cannot be made from is left open here and checked where the code runs. */
export function schemaFromJson(json: Readonly<Record<string, unknown>>): z.ZodObject {
  let made: z.ZodType;
  try {
    made = z.fromJSONSchema(json as z.core.JSONSchema.JSONSchema);
  } catch {
    // Not every draft of JSON Schema can be said in zod.
    return z.looseObject({});
  }
  return made instanceof z.ZodObject ? made : z.looseObject({});
}

/** The default of a slot: the configuration's, else the operation's. Null when none names an installed provider. */
export function slotDefault(parts: BodyParts, slotName: string): unknown {
  const slot = parts.slots[slotName] as Slot;
  const ids = new Set(parts.choices(slot.hook).map((choice) => choice.id));
  for (const candidate of [parts.defaults[slotName], slot.default]) {
    if (candidate === undefined) continue;
    const picks = (Array.isArray(candidate) ? candidate : [candidate]).map(longForm);
    if (picks.every((pick) => typeof pick === "object" && pick !== null && ids.has((pick as { id: string }).id)))
      return slot.many === true ? picks : picks[0];
  }
  return null;
}

export function bodySchema(parts: BodyParts): z.ZodObject {
  const slots: Record<string, z.ZodType> = {};
  for (const [name, slot] of Object.entries(parts.slots)) slots[name] = slotSchema(parts, name, slot);
  // safeExtend keeps the operation's own refinements; strict makes an unknown key an error.
  return parts.input.safeExtend(slots).strict();
}

function slotSchema(parts: BodyParts, name: string, slot: Slot): z.ZodType {
  const options = parts.choices(slot.hook).map(({ id, options }) => options.safeExtend({ id: z.literal(id) }).strict());
  const [head, ...tail] = options;
  const one: z.ZodType =
    head === undefined ? z.strictObject({ id: z.string() }) : z.discriminatedUnion("id", [head, ...tail]);
  const described = (slot.many === true ? z.array(one) : one).meta({ description: slot.summary });
  const fallback = slotDefault(parts, name);
  // prefault, not default: the options inside the default pick get their own defaults.
  if (fallback !== null) return described.prefault(fallback as never);
  return slot.optional === true ? described.optional() : described;
}

/** `"cfg"` for `{ id: "cfg" }`. */
const longForm = (pick: unknown): unknown => (typeof pick === "string" ? { id: pick } : pick);

/** Parses a body, short forms included, or throws one clear sentence. */
export function parseBody(parts: BodyParts, schema: z.ZodObject, body: unknown): ParsedBody {
  if (body === null || typeof body !== "object" || Array.isArray(body))
    throw new WaverError("invalid_input", `${parts.name} takes a JSON object`);
  const normal: Bag = { ...(body as Bag) };
  for (const [name, slot] of Object.entries(parts.slots)) {
    const given = normal[name];
    if (given === undefined) continue;
    if (slot.many === true) normal[name] = (Array.isArray(given) ? given : [given]).map(longForm);
    else normal[name] = withId(longForm(given), slotDefault(parts, name));
    if (parts.choices(slot.hook).length === 0)
      throw new WaverError("no_provider", `${name}: no installed plugin provides the hook ${slot.hook}`);
  }
  const parsed = schema.safeParse(normal);
  if (!parsed.success) throw explain(parts, normal, parsed.error);
  const input: Bag = {};
  const picks: Bag = {};
  for (const [key, value] of Object.entries(parsed.data)) (key in parts.slots ? picks : input)[key] = value;
  // The union over providers has checked the shape of every pick.
  return { body: parsed.data, input, picks: picks as Picks };
}

/** Options without an id mean the default provider. */
function withId(pick: unknown, fallback: unknown): unknown {
  if (pick === null || typeof pick !== "object" || "id" in pick || fallback === null) return pick;
  return { id: (fallback as { id: string }).id, ...pick };
}

function explain(parts: BodyParts, body: Bag, error: z.ZodError): WaverError {
  const found = error.issues.flatMap((issue) => meant(issue, valueAt(body, issue.path.map(String))));
  const issues = found.map((issue) => ({ path: issue.path.join("."), message: issue.message }));
  const data = { operation: parts.name, issues };
  const unknown = found.find((issue) => issue.code === "unrecognized_keys");
  if (unknown?.code === "unrecognized_keys") {
    const key = unknown.keys[0] ?? "";
    const path = unknown.path.map(String);
    const known = knownKeys(parts, body, path);
    return new WaverError("unknown_option", `${parts.name} has no option ${[...path, key].join(".")}`, {
      ...(known === null ? {} : { hint: didYouMean(key, known) }),
      data,
    });
  }
  const issue = found[0] as z.core.$ZodIssue;
  const path = issue.path.map(String);
  const slot = parts.slots[path[0] ?? ""];
  if (slot !== undefined) {
    const ids = parts.choices(slot.hook).map((choice) => choice.id);
    const id = valueAt(body, path);
    if (ids.length === 0)
      return new WaverError("no_provider", `${path[0]}: no installed plugin provides the hook ${slot.hook}`, { data });
    if (issue.code === "invalid_union" && path.at(-1) === "id" && typeof id === "string")
      return new WaverError("no_provider", `${path[0]}: no provider of ${slot.hook} is named ${id}`, {
        hint: didYouMean(id, ids),
        data,
      });
    if (valueAt(body, path.slice(0, 1)) === undefined)
      return new WaverError("invalid_input", `${parts.name} needs ${path[0]}: ${slot.summary}`, {
        hint: `one of ${ids.join(", ")}`,
        data,
      });
  }
  const missing = valueAt(body, path) === undefined && issue.code === "invalid_type";
  const where = path.join(".");
  return new WaverError(
    "invalid_input",
    missing ? `${parts.name} needs ${where}` : `${where === "" ? parts.name : where}: ${issue.message}`,
    { data },
  );
}

/** Of a union, what is wrong in the one alternative that the value is of the kind of; the whole where that is not one. */
function meant(issue: z.core.$ZodIssue, value: unknown): readonly z.core.$ZodIssue[] {
  if (issue.code !== "invalid_union") return [issue];
  const isObject = value !== null && typeof value === "object";
  const others = (each: z.core.$ZodIssue): boolean =>
    each.path.length === 0 && (each.code === "invalid_type" || (each.code === "invalid_value" && isObject));
  const [own, ...more] = issue.errors.filter((issues) => !issues.some(others));
  if (own === undefined || more.length > 0) return [issue];
  return own.map((each) => ({ ...each, path: [...issue.path, ...each.path] }) as z.core.$ZodIssue);
}

/** Keys that would have been accepted where an unknown one stood; null inside nested values. */
function knownKeys(parts: BodyParts, body: Bag, path: readonly string[]): string[] | null {
  if (path.length === 0) return [...Object.keys(parts.input.shape), ...Object.keys(parts.slots)];
  const slot = parts.slots[path[0] as string];
  const atPick = slot !== undefined && path.length === (slot.many === true ? 2 : 1);
  if (!atPick) return null;
  const id = (valueAt(body, path) as { id?: unknown } | undefined)?.id;
  const choice = parts.choices(slot.hook).find((each) => each.id === id);
  return choice === undefined ? null : Object.keys(choice.options.shape);
}

function valueAt(body: unknown, path: readonly string[]): unknown {
  let value = body;
  for (const key of path) {
    if (value === null || typeof value !== "object") return undefined;
    value = (value as Bag)[key];
  }
  return value;
}
