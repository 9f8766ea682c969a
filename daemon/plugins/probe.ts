/**
 * Prints whether the plugins of this configuration can be loaded, as one JSON line: for `waver doctor` where no daemon runs,
 * which a plugin that is named in the configuration and broken may be the reason of.
 */
import { toWaverError } from "../../plugins/errors.ts";
import { loadConfig } from "../config.ts";
import { loadRegistry } from "./registry.ts";

let answer: object;
try {
  const { plugins } = await loadRegistry({ config: await loadConfig(), signal: new AbortController().signal });
  const failed = plugins.filter(({ state }) => state === "failed").map(({ name, reason }) => ({ name, reason }));
  answer = { ok: true, loaded: plugins.filter(({ state }) => state === "loaded").length, failed };
} catch (error) {
  const { message, hint } = toWaverError(error);
  answer = { ok: false, message, hint };
}
process.stdout.write(`${JSON.stringify(answer)}\n`);
process.exit(0);
