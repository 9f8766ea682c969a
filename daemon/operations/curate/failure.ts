/** Which failures concern one file or clip, and which the whole job. */
import { toWaverError, type WaverError } from "../../../plugins/index.ts";

/** An error that concerns one file or clip; any other ends the job. */
export function passable(cause: unknown): WaverError {
  const error = toWaverError(cause);
  if (error.code.startsWith("media_")) return error;
  throw error;
}

/** A provider's own failure on one clip. */
export const isProviderFailure = ({ code }: WaverError): boolean => PROVIDER.has(code);

const PROVIDER: ReadonlySet<string> = new Set([
  "plugin_failed",
  "plugin_timeout",
  "numeric_invalid",
  "shape_mismatch",
  "internal",
]);
