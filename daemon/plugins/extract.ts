/**
 * Child process: imports one third-party plugin and writes its declaration, or why there is none, as JSON.
 * `bun --no-install extract.ts ENTRY DIGEST OUTPUT`. Plugins may print, hang or exit here; nobody listens.
 */
import { rename, writeFile } from "node:fs/promises";
import { checkPlugin, outcomeOf } from "../../plugins/check.ts";
import { declare } from "./declaration.ts";
import { importForeign } from "./host.ts";

const [entry, digest, output] = process.argv.slice(2);
if (entry === undefined || digest === undefined || output === undefined)
  throw new Error("extract.ts ENTRY DIGEST OUTPUT");

let result: unknown;
try {
  result = { declaration: declare(checkPlugin(await importForeign(entry, digest))) };
} catch (error) {
  result = { refused: outcomeOf(error) };
}
await writeFile(`${output}.${process.pid}`, JSON.stringify(result));
await rename(`${output}.${process.pid}`, output);
// A plugin may have left timers or sockets behind.
process.exit(0);
