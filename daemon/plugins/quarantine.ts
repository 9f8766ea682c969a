/** Plugins that took a process down are out of service: whoever misses what they gave is told so. */
import type { PluginDoc } from "../wire.ts";

/** A word on plugins in quarantine, for somebody who misses what one of them gave; null when there is none. */
export function outOfService({
  plugins,
}: {
  readonly plugins: readonly Pick<PluginDoc, "name" | "state" | "reason">[];
}): string | null {
  const out = plugins.filter(({ state }) => state === "quarantined");
  if (out.length === 0) return null;
  const told = out.map(({ name, reason }) => `${name} is out of service (${reason})`).join("; ");
  return `${told}; \`waver plugins reload\` gives it another chance`;
}
