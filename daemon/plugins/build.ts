/** Assembles the registry: core operations, then plugins in their order, frozen. */
import { version as hostVersion } from "../../package.json";
import { jsonSchemaOf } from "../../plugins/check.ts";
import { HOOK_API, type HookName, WaverError } from "../../plugins/index.ts";
import { placeOfModel } from "../models/place.ts";
import { coreOperations } from "../operations/index.ts";
import { type OperationDoc, type OperationsDoc, type PluginDoc, type ProviderDoc, WIRE_VERSION } from "../wire.ts";
import { textDigest } from "./digest.ts";
import type { Refused } from "./discover.ts";
import { type Climbed, loadPlugins } from "./load.ts";
import { outOfService } from "./quarantine.ts";
import type { LoadRegistryOptions, Place, RegisteredOperation, RegisteredProvider, Registry } from "./registry.ts";
import { type BodyParts, bodySchema, parseBody, schemaFromJson, slotDefault } from "./schema.ts";

export async function buildRegistry(options: LoadRegistryOptions): Promise<Registry> {
  const core = await coreOperations();
  const { climbed, refused } = await loadPlugins({ ...options, core: new Set(core.operations.keys()) });
  const warnings = [
    ...refused
      .filter((each) => each.state !== "skipped")
      .map((each) => `the plugin ${each.name} is not loaded: ${each.reason}`),
    ...core.problems,
  ];
  const providers = climbed.flatMap(providersOf);
  const byHook = new Map<HookName, RegisteredProvider[]>();
  for (const provider of providers) byHook.set(provider.hook, [...(byHook.get(provider.hook) ?? []), provider]);

  const missing = outOfService({ plugins: refused });
  const operations = new Map<string, RegisteredOperation>();
  const operationDocs: OperationDoc[] = [];
  const add = (parts: OperationParts): void => {
    const { operation, doc } = registered(parts, options, byHook, warnings, missing);
    operations.set(operation.name, operation);
    operationDocs.push(doc);
  };
  for (const [name, operation] of core.operations)
    add({
      name,
      plugin: null,
      place: { role: operation.runs, plugin: null },
      facts: operation,
      input: operation.input,
      output: jsonSchemaOf(operation.output, "output"),
      declared: operation,
    });
  const docs = refused.map(refusedDoc);
  for (const { loaded, declaration } of climbed) {
    const foreign = loaded.origin === "installed" ? loaded.name : null;
    for (const [name, facts] of Object.entries(declaration.operations)) {
      const declared = loaded.plugin?.operations?.[name] ?? null;
      const input = declared?.input ?? schemaFromJson(facts.input);
      add({
        name,
        plugin: loaded.name,
        place: { role: facts.runs, plugin: foreign },
        facts,
        input,
        output: facts.output,
        declared,
      });
    }
    docs.push({
      name: loaded.name,
      version: loaded.version,
      origin: loaded.origin,
      folder: loaded.folder,
      state: "loaded",
      reason: "",
      provides: declaration.provides.map(({ hook, id }) => `${hook}:${id}`),
      operations: Object.keys(declaration.operations),
    });
  }

  const providerDocs = climbed.flatMap(({ loaded, declaration }) =>
    declaration.provides.map((each): ProviderDoc => ({ ...each, plugin: loaded.name })),
  );
  const body = { wire: WIRE_VERSION, version: hostVersion, operations: operationDocs, providers: providerDocs };
  const pluginSet = textDigest(
    JSON.stringify([body, HOOK_API, climbed.map(({ loaded }) => [loaded.name, loaded.version, loaded.digest])]),
  );
  const wholeDoc: OperationsDoc = { ...body, pluginSet };
  return Object.freeze<Registry>({
    plugins: Object.freeze(docs.sort((a, b) => (a.name < b.name ? -1 : 1))),
    operations,
    providers: (hook) => (hook === undefined ? providers : (byHook.get(hook) ?? [])),
    provider: (hook, id) => byHook.get(hook)?.find((each) => each.id === id),
    docs: () => wholeDoc,
    pluginSet,
    warnings: Object.freeze(warnings),
    loaded: new Map(climbed.map(({ loaded }) => [loaded.name, loaded])),
  });
}

const refusedDoc = ({ name, version, origin, folder, state, reason }: Refused): PluginDoc => ({
  name,
  version,
  origin,
  folder,
  state,
  reason,
  provides: [],
  operations: [],
});

function providersOf({ loaded, declaration }: Climbed): RegisteredProvider[] {
  return declaration.provides.map((facts, index) => {
    const declared = loaded.plugin?.provides[index]?.provider ?? null;
    return Object.freeze<RegisteredProvider>({
      hook: facts.hook,
      id: facts.id,
      plugin: loaded.name,
      summary: facts.summary,
      ...(facts.source === undefined ? {} : { source: facts.source }),
      place: { role: facts.runs, plugin: loaded.origin === "installed" ? loaded.name : null },
      traits: facts.traits,
      options: declared?.options ?? schemaFromJson(facts.options),
      declared,
    });
  });
}

interface OperationParts {
  readonly name: string;
  readonly plugin: string | null;
  readonly place: Place;
  readonly facts: Pick<RegisteredOperation, "kind" | "summary" | "slots"> & { readonly examples?: readonly string[] };
  readonly input: BodyParts["input"];
  readonly output: Record<string, unknown>;
  readonly declared: RegisteredOperation["declared"];
}

function registered(
  { name, plugin, place, facts, input, output, declared }: OperationParts,
  { config }: LoadRegistryOptions,
  byHook: ReadonlyMap<HookName, readonly RegisteredProvider[]>,
  warnings: string[],
  missing: string | null,
): { operation: RegisteredOperation; doc: OperationDoc } {
  const defaults = config.defaults[name] ?? {};
  for (const slot of Object.keys(defaults))
    if (!(slot in facts.slots)) warnings.push(`the configuration has a default for ${name}.${slot}, which is no slot`);
  const parts: BodyParts = { name, input, slots: facts.slots, defaults, choices: (hook) => byHook.get(hook) ?? [] };
  const schema = bodySchema(parts);
  const examples = facts.examples ?? [];
  const inputDoc = jsonSchemaOf(schema, "input");
  const modelFields = fieldsOfFormat(inputDoc, "model");
  const operation = Object.freeze<RegisteredOperation>({
    name,
    plugin,
    place,
    kind: facts.kind,
    summary: facts.summary,
    slots: facts.slots,
    examples,
    bodySchema: schema,
    declared,
    parse: (body) => {
      try {
        return placed(parseBody(parts, schema, body), modelFields, config.home);
      } catch (error) {
        if (missing === null || !(error instanceof WaverError) || error.code !== "no_provider") throw error;
        throw WaverError.fromBody({ ...error.toBody(), hint: missing });
      }
    },
  });
  const slots = Object.entries(facts.slots).map(([key, slot]) => {
    const fallback = slotDefault(parts, key);
    const wanted = defaults[key];
    if (wanted !== undefined && fallback === null)
      warnings.push(`the default of ${name}.${key} names a provider of ${slot.hook} that is not installed`);
    return [
      key,
      {
        hook: slot.hook,
        summary: slot.summary,
        many: slot.many === true,
        optional: slot.optional === true,
        ...(fallback === null ? {} : { default: fallback }),
      },
    ] as const;
  });
  const doc = {
    name,
    kind: facts.kind,
    summary: facts.summary,
    plugin,
    input: inputDoc,
    output,
    slots: Object.fromEntries(slots),
    examples: [...examples],
  };
  return { operation, doc };
}

type Parsed = ReturnType<typeof parseBody>;
const fieldsOfFormat = ({ properties }: Record<string, unknown>, format: string): string[] =>
  Object.entries((properties ?? {}) as Record<string, { format?: unknown }>)
    .filter(([, schema]) => schema.format === format)
    .map(([name]) => name);

/** Names of models become the folders that they stand for: from here on a request means the same to every process. */
function placed(parsed: Parsed, fields: readonly string[], home: string): Parsed {
  const places = Object.fromEntries(
    fields.flatMap((name) => {
      const given = parsed.input[name];
      return typeof given === "string" ? [[name, placeOfModel(home, given)]] : [];
    }),
  );
  return { ...parsed, body: { ...parsed.body, ...places }, input: { ...parsed.input, ...places } };
}
