/** Every built-in plugin passes the suites that third parties run on theirs. */
import { describe, expect, test } from "bun:test";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../daemon/config.ts";
import { loadRegistry } from "../../daemon/plugins/registry.ts";
import { checkPlugin, failures } from "../../plugins/testing.ts";

// A home without installed plugins: what is judged here is this tree.
const config = await loadConfig({ env: {}, set: { home: join(tmpdir(), "waver-no-home") } });
const registry = await loadRegistry({ config, signal: new AbortController().signal });

test("every built-in plugin and every core operation is loaded", () => {
  expect(registry.plugins.filter((each) => each.origin === "builtin" && each.state !== "loaded")).toEqual([]);
  expect(registry.warnings.filter((warning) => warning.startsWith("the operation file"))).toEqual([]);
});

describe("built-in plugin", () => {
  for (const { name, plugin } of registry.loaded.values())
    if (plugin !== null)
      test(name, async () => {
        expect(failures(await checkPlugin(plugin))).toEqual([]);
      });
});

test("importing declarations loads no engine", async () => {
  const program = join(import.meta.dir, "../support/declarations.ts");
  const child = Bun.spawn([process.execPath, "--no-install", program, config.home], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const said = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  expect(JSON.parse(said)).toMatchObject({ engine: false });
});
