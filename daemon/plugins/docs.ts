/** Child process of clients without a daemon: prints what this host can do, the answer of GET /v1/operations, as JSON. */
import { toWaverError } from "../../plugins/errors.ts";
import { loadConfig } from "../config.ts";
import { loadRegistry } from "./registry.ts";

try {
  const home = process.argv[2];
  const config = await loadConfig(home === undefined ? {} : { set: { home } });
  const registry = await loadRegistry({ config, signal: AbortSignal.timeout(60_000) });
  await Bun.write(Bun.stdout, `${JSON.stringify(registry.docs())}\n`);
  process.exit(0);
} catch (error) {
  await Bun.write(Bun.stdout, `${JSON.stringify({ error: toWaverError(error).toBody() })}\n`);
  process.exit(1);
}
