/** A plugin's declaration as data: what is left of it when its code must not be imported. */
import { z } from "zod";
import { jsonSchemaOf } from "../../plugins/check.ts";
import { type HookName, hooks, type Plugin } from "../../plugins/index.ts";

const Bag = z.record(z.string(), z.unknown());
const hookName = z.enum(Object.keys(hooks) as [HookName, ...HookName[]]);

export const ProviderDeclaration = z.object({
  hook: hookName,
  id: z.string(),
  summary: z.string(),
  source: z.string().optional(),
  runs: z.enum(["device", "worker"]),
  traits: Bag,
  options: Bag,
});

export const OperationDeclaration = z.object({
  kind: z.enum(["query", "job"]),
  summary: z.string(),
  runs: z.enum(["device", "worker", "daemon"]),
  input: Bag,
  output: Bag,
  slots: z.record(
    z.string(),
    z.object({
      hook: hookName,
      summary: z.string(),
      many: z.boolean().optional(),
      optional: z.boolean().optional(),
      default: z.union([Bag, z.array(Bag)]).optional(),
    }),
  ),
  examples: z.array(z.string()),
});
export type OperationDeclaration = z.output<typeof OperationDeclaration>;

export const Declaration = z.object({
  name: z.string(),
  version: z.string(),
  hookApi: z.string(),
  provides: z.array(ProviderDeclaration),
  operations: z.record(z.string(), OperationDeclaration),
});
export type Declaration = z.output<typeof Declaration>;

/** A checked plugin as data, with options and inputs as JSON Schema. */
export function declare(plugin: Plugin): Declaration {
  return {
    name: plugin.name,
    version: plugin.version,
    hookApi: plugin.hookApi,
    provides: plugin.provides.map(({ hook, provider }) => ({
      hook,
      id: provider.id,
      summary: provider.summary,
      ...(provider.source === undefined ? {} : { source: provider.source }),
      runs: provider.runs,
      traits: provider.traits as Record<string, unknown>,
      options: jsonSchemaOf(provider.options, "input"),
    })),
    operations: Object.fromEntries(
      Object.entries(plugin.operations ?? {}).map(([name, operation]) => [
        name,
        {
          kind: operation.kind,
          summary: operation.summary,
          runs: operation.runs,
          input: jsonSchemaOf(operation.input, "input"),
          output: jsonSchemaOf(operation.output, "output"),
          slots: operation.slots as OperationDeclaration["slots"],
          examples: [...(operation.examples ?? [])],
        },
      ]),
    ),
  };
}
