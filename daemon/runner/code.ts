/** The plugins' code in this process: what may be imported here, imported once, set up once, disposed in reverse. */

import { checkPlugin, shapeOf } from "../../plugins/check.ts";
import { type AnyOperation, type AnyProvider, hooks, type Plugin, WaverError } from "../../plugins/index.ts";
import type { Config } from "../config.ts";
import { importForeign } from "../plugins/host.ts";
import type { LoadedPlugin, RegisteredOperation, RegisteredProvider, Registry } from "../plugins/registry.ts";

/**
 * What kind of process this is. `daemon`: operations that run in the daemon itself, with the store beside them and no
 * third party's code. `inline` runs everything itself: tests, and single operations without a daemon.
 */
export type Role = "device" | "worker" | "daemon" | "inline";

export interface CodeOptions {
  readonly role: Role;
  /** The third-party plugin that this worker was started for. */
  readonly plugin: string | null;
  readonly config: Config;
  readonly signal: AbortSignal;
}

/** A plugin by name and digest, so that a changed plugin is imported again after a reload. */
const keyOf = (loaded: LoadedPlugin): string => `${loaded.name} ${loaded.digest}`;

export class PluginCode implements AsyncDisposable {
  readonly #options: CodeOptions;
  readonly #ready = new Map<string, Promise<Plugin>>();
  readonly #disposables: AsyncDisposable[] = [];

  constructor(options: CodeOptions) {
    this.#options = options;
  }

  /**
   * Whether a provider runs in this process. Values of hooks that are not portable live beside their user, so those
   * are local wherever their code may run at all.
   */
  isLocal({ hook, place }: Pick<RegisteredProvider, "hook" | "place">): boolean {
    const { role, plugin } = this.#options;
    if (role === "inline") return true;
    if (role === "device") return place.role === "device" || !hooks[hook].portable;
    if (role === "daemon") return place.role === "worker" && place.plugin === null && !hooks[hook].portable;
    if (place.role !== "worker" || (place.plugin !== null && place.plugin !== plugin)) return false;
    // A process of a third party shares nothing with the pool but what it cannot do without.
    return plugin === null || place.plugin === plugin || !hooks[hook].portable;
  }

  async provider(registry: Registry, found: RegisteredProvider): Promise<AnyProvider> {
    const plugin = await this.#plugin(registry, found.plugin);
    const provided = plugin.provides.find((each) => each.hook === found.hook && each.provider.id === found.id);
    if (provided === undefined)
      throw new WaverError(
        "plugin_invalid",
        `the plugin ${found.plugin} no longer provides ${found.id} of ${found.hook}`,
      );
    return provided.provider;
  }

  async operation(registry: Registry, found: RegisteredOperation): Promise<AnyOperation> {
    if (found.plugin === null) return found.declared as AnyOperation;
    const operation = (await this.#plugin(registry, found.plugin)).operations?.[found.name];
    if (operation === undefined)
      throw new WaverError("plugin_invalid", `the plugin ${found.plugin} no longer has the operation ${found.name}`);
    return operation;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const each of this.#disposables.splice(0).reverse()) await each[Symbol.asyncDispose]();
  }

  #plugin(registry: Registry, name: string): Promise<Plugin> {
    const loaded = registry.loaded.get(name);
    if (loaded === undefined) throw new WaverError("plugin_failed", `the plugin ${name} is not loaded`);
    const key = keyOf(loaded);
    let ready = this.#ready.get(key);
    if (ready === undefined) {
      ready = this.#bring(loaded);
      this.#ready.set(key, ready);
      // A failed set-up may be tried again: its cause (a missing endpoint, say) can go away.
      ready.catch(() => this.#ready.delete(key));
    }
    return ready;
  }

  async #bring(loaded: LoadedPlugin): Promise<Plugin> {
    const plugin = loaded.plugin ?? (await this.#import(loaded));
    const config = this.#configOf(plugin);
    const made = await plugin.setup?.({ config, signal: this.#options.signal });
    if (made !== undefined) this.#disposables.push(made);
    return plugin;
  }

  async #import(loaded: LoadedPlugin): Promise<Plugin> {
    const { role, plugin } = this.#options;
    if (role === "daemon" || (role === "worker" && plugin !== loaded.name))
      throw new WaverError("internal", `the plugin ${loaded.name} was asked of a process that must not import it`);
    return checkPlugin(await importForeign(loaded.entry, loaded.digest));
  }

  #configOf(plugin: Plugin): Record<string, unknown> {
    const { config } = this.#options;
    // Facts of the host that a plugin asks for by naming a field after them.
    const facts = {
      home: config.home,
      cache: config.cache,
      ...(config.endpoint === undefined ? {} : { endpoint: config.endpoint }),
    };
    const asked = shapeOf(plugin.config);
    const given = Object.fromEntries(Object.entries(facts).filter(([name]) => name in asked));
    const parsed = plugin.config.safeParse({ ...given, ...config.plugin[plugin.name] });
    if (parsed.success) return parsed.data;
    const issue = parsed.error.issues[0];
    throw new WaverError(
      "invalid_input",
      `the configuration plugin.${plugin.name} is wrong: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`,
    );
  }
}
