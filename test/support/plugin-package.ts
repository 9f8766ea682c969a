/** Plugin packages written on the spot: what a third party might hand us, good or broken. */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Config, loadConfig } from "../../daemon/config.ts";
import { loadRegistry, type Registry } from "../../daemon/plugins/registry.ts";

export interface PackageParts {
  readonly name: string;
  /** The source of index.ts. */
  readonly source: string;
  readonly manifest?: Readonly<Record<string, unknown>>;
}

/** A plugin's source: providers as text, inside the usual frame. */
export const pluginSource = (name: string, provides: string, more = ""): string => `
import { definePlugin, provide, z } from "waver/plugin";
${more}
export default definePlugin({
  name: ${JSON.stringify(name)}, version: "1.0.0", hookApi: "0.1", config: z.strictObject({}), provides: [${provides}],
});
`;

export const rewriter = (id: string, body = "async (prompt) => prompt"): string =>
  `provide("rewrite", { id: ${JSON.stringify(id)}, summary: "s", runs: "worker", options: z.object({}), traits: {}, run: ${body} })`;

export interface PluginHome extends AsyncDisposable {
  readonly folder: string;
  /** Writes a package as if it had been installed. */
  install(parts: PackageParts): Promise<void>;
  config(set?: Parameters<typeof loadConfig>[0]): Promise<Config>;
  registry(set?: Parameters<typeof loadConfig>[0], importMs?: number): Promise<Registry>;
}

/** A home folder with installed packages, gone at the end. */
export async function pluginHome(): Promise<PluginHome> {
  const folder = await mkdtemp(join(tmpdir(), "waver-home-"));
  const installed: Record<string, string> = {};
  const config: PluginHome["config"] = (options = {}) =>
    loadConfig({
      env: {},
      from: folder,
      ...options,
      set: { home: folder, cache: join(folder, "cache"), ...options.set },
    });
  return {
    folder,
    async install({ name, source, manifest = {} }) {
      const path = join(folder, "plugins/node_modules", name);
      await mkdir(path, { recursive: true });
      const standard = {
        name,
        version: "1.0.0",
        type: "module",
        keywords: ["waver-plugin"],
        waver: { plugin: "./index.ts", hookApi: "0.1" },
      };
      await Bun.write(join(path, "package.json"), JSON.stringify({ ...standard, ...manifest }));
      await Bun.write(join(path, "index.ts"), source);
      installed[name] = "1.0.0";
      await Bun.write(join(folder, "plugins/package.json"), JSON.stringify({ private: true, dependencies: installed }));
    },
    config,
    registry: async (options, importMs) =>
      loadRegistry({
        config: await config(options),
        signal: new AbortController().signal,
        ...(importMs === undefined ? {} : { importMs }),
      }),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}
