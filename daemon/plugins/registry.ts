/**
 * What this host can do: declarations of all loaded plugins and core operations, checked and frozen. Everything that
 * clients see (routes, OpenAPI, commands, forms) is derived from here; there is no second list.
 */
import type { z } from "zod";
import type { AnyOperation, AnyProvider, HookName, Picks, Plugin, Slot } from "../../plugins/index.ts";
import type { Config } from "../config.ts";
import type { OperationsDoc, PluginDoc } from "../wire.ts";
import { buildRegistry } from "./build.ts";

/** Where something runs. `plugin` set: only in a process that was started with `--plugin NAME`, or in the device's runner. */
export interface Place {
  readonly role: "device" | "worker" | "daemon";
  /** The third-party plugin whose code must be imported for it; null for our own. */
  readonly plugin: string | null;
}

export interface RegisteredProvider {
  readonly hook: HookName;
  readonly id: string;
  readonly plugin: string;
  readonly summary: string;
  readonly source?: string;
  readonly place: Place;
  readonly traits: Readonly<Record<string, unknown>>;
  /** For third parties: made from JSON Schema; the process that runs the provider parses again with the plugin's own schema. */
  readonly options: z.ZodObject;
  /** The declaration itself; null for third parties, whose code is imported only where it runs. */
  readonly declared: AnyProvider | null;
}

/** A body after parsing: defaults applied, fields of the operation apart from the picks of its slots. */
export interface ParsedBody {
  /** As one object again: what the journal keeps and what a runner is sent. Parsing it again changes nothing. */
  readonly body: Readonly<Record<string, unknown>>;
  readonly input: Readonly<Record<string, unknown>>;
  readonly picks: Picks;
}

export interface RegisteredOperation {
  readonly name: string;
  /** Null for core operations. */
  readonly plugin: string | null;
  readonly kind: "query" | "job";
  readonly summary: string;
  readonly place: Place;
  readonly slots: Readonly<Record<string, Slot>>;
  readonly examples: readonly string[];
  /** The whole body: fields and one key a slot. Prefer `parse`, which also takes short forms and throws WaverErrors. */
  readonly bodySchema: z.ZodType<Record<string, unknown>>;
  /** Throws invalid_input, unknown_option (with a did-you-mean) or no_provider. */
  parse(body: unknown): ParsedBody;
  /** The declaration itself (`reads`, `writes`, `run`); null for third parties, whose results are never reused. */
  readonly declared: AnyOperation | null;
}

export interface Registry {
  readonly plugins: readonly PluginDoc[];
  readonly operations: ReadonlyMap<string, RegisteredOperation>;
  /** Providers of a hook, by id; of all hooks when silent. */
  providers(hook?: HookName): readonly RegisteredProvider[];
  provider(hook: HookName, id: string): RegisteredProvider | undefined;
  docs(): OperationsDoc;
  /** Digest over names, versions and content of everything loaded. */
  readonly pluginSet: string;
  /** Things a person should know: what was skipped, and why. Logged by whoever loads the registry. */
  readonly warnings: readonly string[];
  /** Plugins by name, for the processes that run their code. */
  readonly loaded: ReadonlyMap<string, LoadedPlugin>;
}

export interface LoadedPlugin {
  readonly name: string;
  readonly version: string;
  readonly origin: "builtin" | "installed";
  /** The file to import. */
  readonly entry: string;
  readonly folder: string;
  readonly digest: string;
  /** Set for built-ins only: third-party code is imported by the process that runs it. */
  readonly plugin: Plugin | null;
}

export interface LoadRegistryOptions {
  readonly config: Config;
  readonly signal: AbortSignal;
  /** Plugins that are left out after a crash that named them, with the reason. */
  readonly quarantined?: ReadonlyMap<string, string>;
  /** Milliseconds that importing one plugin may take. */
  readonly importMs?: number;
}

/** Discovers, checks and freezes. A plugin named in the configuration that cannot load throws; others are skipped with a reason. */
export const loadRegistry = (options: LoadRegistryOptions): Promise<Registry> => buildRegistry(options);
