/**
 * Makes `import "waver/plugin"` mean this very host in plugins that live elsewhere, whatever copy they may have
 * installed: two contracts in one process would not know each other's errors.
 */
import { plugin } from "bun";

let done = false;

/** To be called before third-party code is imported. Once a process. */
export function provideContract(): void {
  if (done) return;
  done = true;
  plugin({
    name: "waver-contract",
    setup(build) {
      build.module("waver/plugin", async () => ({
        loader: "object",
        exports: { ...(await import("../../plugins/index.ts")) },
      }));
      build.module("waver/plugin/testing", async () => ({
        loader: "object",
        exports: { ...(await import("../../plugins/testing.ts")) },
      }));
    },
  });
}

/** Imports a third-party module. The digest keeps a changed plugin from being answered out of the module cache. */
export async function importForeign(entry: string, digest: string): Promise<unknown> {
  provideContract();
  const module = (await import(`${entry}?${digest.slice(-16)}`)) as { default?: unknown };
  return module.default;
}

/**
 * What a process with third-party code may know: enough to run Bun, and nothing of the user's secrets. The registry of
 * packages is out of reach on purpose (--no-install): a plugin brings its dependencies when it is installed.
 */
export function scrubbedEnv(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const name of ["PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ"]) {
    const value = process.env[name];
    if (value !== undefined) kept[name] = value;
  }
  return { ...kept, ...extra };
}
