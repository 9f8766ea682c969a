/** Child process: loads the registry in a fresh process and prints what came of it. `bun declarations.ts HOME` */
import { loadConfig } from "../../daemon/config.ts";
import { loadRegistry } from "../../daemon/plugins/registry.ts";

const home = process.argv[2] as string;
const config = await loadConfig({ env: {}, set: { home, cache: home } });
const registry = await loadRegistry({ config, signal: new AbortController().signal });

export interface Declarations {
  readonly plugins: readonly string[];
  readonly warnings: readonly string[];
  readonly operations: number;
  /** Whether anything that was imported loaded the engine. */
  readonly engine: boolean;
}

const found: Declarations = {
  plugins: [...registry.loaded.keys()],
  warnings: registry.warnings,
  operations: registry.operations.size,
  engine: Symbol.for("waver.native") in globalThis,
};
process.stdout.write(JSON.stringify(found));
