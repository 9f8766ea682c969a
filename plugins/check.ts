/**
 * Checks what a plugin module exports, rung by rung. Schemas of plugins are recognised by shape, never by `instanceof`:
 * a third party may carry its own copy of zod.
 */
import { z } from "zod";
import type { Plugin } from "./define.ts";
import { type ErrorCode, WaverError } from "./errors.ts";
import { HOOK_API, type HookName, hooks } from "./hooks.ts";

const Name = z.string().regex(/^[a-z0-9][a-z0-9._-]*$/, "lower-case letters, digits, - . and _");
const PluginName = z.string().regex(/^(@[a-z0-9][a-z0-9._-]*\/)?[a-z0-9][a-z0-9._-]*$/, "a package name");
const SlotName = z.string().regex(/^[a-z][A-Za-z0-9]*$/, "camelCase");
const hookName = z.enum(Object.keys(hooks) as [HookName, ...HookName[]]);
const aFunction = z.custom<(...args: never[]) => unknown>((value) => typeof value === "function", {
  message: "expected a function",
});

/** A schema of zod 4, of whichever copy. */
const schemaOf = (type: string | null) =>
  z.custom<z.ZodType>(
    (value) => {
      const def = (value as { _zod?: { def?: { type?: unknown } } } | null | undefined)?._zod?.def;
      return def !== undefined && (type === null || def.type === type);
    },
    { message: type === null ? "expected a zod 4 schema" : `expected a zod 4 ${type} schema` },
  );

const ProviderShape = z.object({
  id: Name,
  summary: z.string().min(1),
  source: z.string().optional(),
  runs: z.enum(["device", "worker"]),
  options: schemaOf("object"),
  traits: z.record(z.string(), z.unknown()),
  needs: z
    .array(
      z.object({
        hook: hookName,
        where: z.record(z.string(), z.unknown()).optional(),
        optional: z.boolean().optional(),
      }),
    )
    .optional(),
  outlines: z.boolean().optional(),
  bytes: aFunction.optional(),
  patience: aFunction.optional(),
  load: aFunction.optional(),
  run: aFunction,
});

const OperationShape = z.object({
  kind: z.enum(["query", "job"]),
  summary: z.string().min(1),
  runs: z.enum(["device", "worker", "daemon"]),
  input: schemaOf("object"),
  output: schemaOf(null),
  slots: z.record(
    SlotName,
    z.object({
      hook: hookName,
      summary: z.string().min(1),
      many: z.boolean().optional(),
      optional: z.boolean().optional(),
      default: z.unknown().optional(),
    }),
  ),
  reads: aFunction.optional(),
  writes: aFunction.optional(),
  patience: aFunction.optional(),
  examples: z.array(z.string()).optional(),
  run: aFunction,
});

const PluginShape = z.object({
  name: PluginName,
  version: z.string().min(1),
  hookApi: z.string(),
  config: schemaOf("object"),
  provides: z.array(z.object({ hook: z.string(), provider: z.unknown() })),
  operations: z.record(Name, z.unknown()).optional(),
  setup: aFunction.optional(),
});

/** The default export of a plugin's module as a checked declaration. Throws plugin_invalid or plugin_incompatible in one sentence. */
export function checkPlugin(exported: unknown): Plugin {
  if (exported === null || typeof exported !== "object")
    throw invalid("its module has no default export made by definePlugin");
  const shape = PluginShape.safeParse(exported);
  if (!shape.success) throw invalid(first("the declaration", shape.error));
  checkApi(shape.data.hookApi);
  const seen = new Set<string>();
  for (const { hook, provider } of shape.data.provides) {
    checkProvided(hook, provider);
    const key = `${hook} ${(provider as { id: string }).id}`;
    if (seen.has(key)) throw invalid(`it provides ${key} twice`);
    seen.add(key);
  }
  for (const [name, operation] of Object.entries(shape.data.operations ?? {})) checkOperation(name, operation);
  return exported as Plugin;
}

export function checkProvided(hook: string, provider: unknown): void {
  const known = hookName.safeParse(hook);
  if (!known.success) throw invalid(`it provides for a hook that does not exist: ${hook}`);
  const parsed = ProviderShape.safeParse(provider);
  const id = (provider as { id?: unknown } | null)?.id;
  const what = `${hook} ${typeof id === "string" ? id : "provider"}`;
  if (!parsed.success) throw invalid(first(what, parsed.error));
  const traits = hooks[known.data].traits.safeParse(parsed.data.traits);
  if (!traits.success) throw invalid(first(`traits of ${what}`, traits.error));
  if ("id" in shapeOf(parsed.data.options)) throw invalid(`${what} has an option named id, which the pick itself uses`);
}

export function checkOperation(name: string, operation: unknown): void {
  const parsed = OperationShape.safeParse(operation);
  if (!parsed.success) throw invalid(first(`operation ${name}`, parsed.error));
  const fields = shapeOf(parsed.data.input);
  for (const slot of Object.keys(parsed.data.slots))
    if (slot in fields) throw invalid(`operation ${name} has a field and a slot named ${slot}`);
}

/** Whether a value is an operation's declaration: decides which exports of a core operation file are operations. */
export const isOperation = (value: unknown): boolean => OperationShape.safeParse(value).success;

/** Throws plugin_incompatible unless this host serves the range: same major, and at 0.x the same minor. */
export function checkApi(range: string): void {
  const wanted = /^\^?(\d+)\.(\d+)(?:\.\d+)?$/.exec(range);
  const host = HOOK_API.split(".").map(Number);
  if (wanted === null)
    throw new WaverError("plugin_invalid", `its hookApi is not a version range like "${host[0]}.${host[1]}": ${range}`);
  const [major, minor] = [Number(wanted[1]), Number(wanted[2])];
  const [hostMajor, hostMinor] = [host[0] as number, host[1] as number];
  const serves = major === hostMajor && (major === 0 ? minor === hostMinor : minor <= hostMinor);
  if (!serves)
    throw new WaverError("plugin_incompatible", `it was written for hook API ${range}; this host has ${HOOK_API}`, {
      hint: "install a version of the plugin for this host, or the host it was written for",
    });
}

/** JSON Schema without the dialect line. Values that JSON cannot say (tensors, streams) are left open. */
export function jsonSchemaOf(schema: z.ZodType, io: "input" | "output"): Record<string, unknown> {
  const { $schema: _, ...json } = z.toJSONSchema(schema, { io, unrepresentable: "any" }) as Record<string, unknown>;
  return json;
}

/** Fields of an object schema, of whichever copy of zod. */
export const shapeOf = (schema: z.ZodType): Readonly<Record<string, z.ZodType>> =>
  (schema as unknown as { _zod: { def: { shape: Record<string, z.ZodType> } } })._zod.def.shape;

const invalid = (reason: string): WaverError => new WaverError("plugin_invalid", reason);

function first(what: string, error: z.ZodError): string {
  const issue = error.issues[0];
  const path = issue?.path.join(".") ?? "";
  return `${what} is wrong${path === "" ? "" : ` at ${path}`}: ${issue?.message ?? "unreadable"}`;
}

/** The code and the sentence that an outcome keeps of a thrown value. */
export function outcomeOf(error: unknown): { code: ErrorCode; reason: string } {
  if (error instanceof WaverError) return { code: error.code, reason: error.message };
  const message = error instanceof Error ? error.message : String(error);
  return { code: "plugin_failed", reason: `it threw while being imported: ${oneSentence(message)}` };
}

const oneSentence = (text: string): string => (text.split("\n")[0] ?? "").slice(0, 300);
