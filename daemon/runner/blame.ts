/** Says whose failure it was: every error that leaves a provider names its plugin, hook and id. */
import { toWaverError, WaverError } from "../../plugins/index.ts";

export interface Culprit {
  readonly plugin: string;
  readonly hook: string;
  readonly id: string;
}

export function blame(error: unknown, culprit: Culprit): WaverError {
  const known = toWaverError(error);
  // The innermost provider is the one at fault; a cancelled job is nobody's failure.
  if (known.code === "cancelled" || known.data?.["plugin"] !== undefined) return known;
  const isOurs = known.code !== "internal";
  return new WaverError(
    isOurs ? known.code : "plugin_failed",
    isOurs ? known.message : `${culprit.hook} ${culprit.id} (plugin ${culprit.plugin}) failed: ${known.message}`,
    {
      cause: error,
      ...(known.hint === undefined ? {} : { hint: known.hint }),
      data: { ...known.data, ...culprit },
    },
  );
}

/** Names this process: the daemon retires the one in which a promise never settled, not those that waited for it. */
export const hung = ({ plugin, hook, id }: Culprit, seconds: number): WaverError =>
  new WaverError(
    "plugin_timeout",
    `${hook} ${id} (plugin ${plugin}) showed no sign of life for ${seconds} s and was cut off`,
    {
      hint: "if it only takes its time: raise `patience` in the configuration, or let its author declare a longer one",
      data: { plugin, hook, id, process: process.pid },
    },
  );
