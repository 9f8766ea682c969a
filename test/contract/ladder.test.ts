/** Every rung of the ladder: what stops a plugin there, and that nothing else stops with it. */
import { describe, expect, test } from "bun:test";
import type { PluginDoc } from "../../daemon/wire.ts";
import { pluginHome, pluginSource, rewriter } from "../support/plugin-package.ts";

/** What becomes of one package, and the built-ins beside it. */
async function outcome(
  name: string,
  source: string,
  manifest: Record<string, unknown> = {},
  importMs?: number,
): Promise<PluginDoc | undefined> {
  await using home = await pluginHome();
  await home.install({ name, source, manifest });
  const registry = await home.registry({}, importMs);
  expect(
    registry.plugins.filter((each) => each.origin === "builtin" && each.state === "loaded").length,
  ).toBeGreaterThan(0);
  return registry.plugins.find((each) => each.name === name);
}

const good = pluginSource("wp", rewriter("wp-echo"));

describe("a plugin", () => {
  test("that keeps the contract is loaded", async () => {
    expect(await outcome("wp", good)).toMatchObject({
      state: "loaded",
      reason: "",
      provides: ["rewrite:wp-echo"],
      version: "1.0.0",
    });
  });

  test("that is a library is no plugin at all", async () => {
    expect(await outcome("wp", "export {}", { keywords: [], waver: undefined })).toBeUndefined();
  });

  test("with a wrong manifest is not imported", async () => {
    expect(await outcome("wp", good, { waver: { plugin: "./index.ts" } })).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("waver.hookApi"),
    });
    expect(await outcome("wp", good, { waver: { plugin: "../../x.ts", hookApi: "0.1" } })).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("outside"),
    });
    expect(await outcome("wp", good, { waver: { plugin: "./main.ts", hookApi: "0.1" } })).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("./main.ts"),
    });
  });

  test("for another hook API is not imported", async () => {
    const throws = "throw new Error('imported')";
    for (const hookApi of ["0.2", "1.0", "0.0"])
      expect(await outcome("wp", throws, { waver: { plugin: "./index.ts", hookApi } })).toMatchObject({
        state: "failed",
        reason: expect.stringContaining(`hook API ${hookApi}`),
      });
    expect(await outcome("wp", throws, { waver: { plugin: "./index.ts", hookApi: "latest" } })).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("not a version range"),
    });
  });

  test("that throws, exits or hangs while imported fails with one sentence", async () => {
    expect(await outcome("wp", "throw new Error('no licence key\\nsecond line')")).toMatchObject({
      state: "failed",
      reason: "it threw while being imported: no licence key",
    });
    expect(await outcome("wp", "process.exit(3)")).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("code 3"),
    });
    expect(await outcome("wp", "process.kill(process.pid, 'SIGKILL'); await new Promise(() => {})")).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("SIGKILL"),
    });
    expect(await outcome("wp", "await new Promise(() => setInterval(() => {}, 1000))", {}, 500)).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("within 0.5 s"),
    });
  });

  test("with a wrong declaration says where it is wrong", async () => {
    const wrong: [string, string][] = [
      ["export default 3", "default export"],
      [pluginSource("other", rewriter("x")), "its declaration other"],
      [pluginSource("wp", rewriter("Not An Id")), "id"],
      [pluginSource("wp", `${rewriter("x")}, ${rewriter("x")}`), "twice"],
      [pluginSource("wp", rewriter("x").replace('"rewrite"', '"rewrites"')), "rewrites"],
      [pluginSource("wp", rewriter("x").replace("z.object({})", "z.string()")), "options"],
      [pluginSource("wp", rewriter("x").replace("z.object({})", "z.object({ id: z.string() })")), "named id"],
      [pluginSource("wp", rewriter("x").replace('"rewrite"', '"score"')), "traits of score x"],
    ];
    for (const [source, reason] of wrong)
      expect(await outcome("wp", source)).toMatchObject({ state: "failed", reason: expect.stringContaining(reason) });
  });

  test("that repeats another's provider is refused, naming both", async () => {
    await using home = await pluginHome();
    await home.install({ name: "wp-a", source: pluginSource("wp-a", rewriter("same")) });
    await home.install({ name: "wp-b", source: pluginSource("wp-b", rewriter("same")) });
    const registry = await home.registry();
    expect(registry.plugins.find((each) => each.name === "wp-a")).toMatchObject({ state: "loaded" });
    expect(registry.plugins.find((each) => each.name === "wp-b")).toMatchObject({
      state: "failed",
      reason: "the provider same of rewrite is given by both wp-a and wp-b",
    });
    expect(registry.warnings.join()).toContain("wp-b");
  });

  test("may not take a name of the host's own, nor run in the daemon", async () => {
    const operation = (name: string, runs: string): string =>
      pluginSource("wp", "").replace(
        "provides:",
        `operations: { ${JSON.stringify(name)}: { kind: "query", summary: "s", runs: "${runs}", input: z.object({}), output: z.null(), slots: {}, run: async () => null } }, provides:`,
      );
    expect(await outcome("wp", operation("jobs", "worker"))).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("host's own"),
    });
    expect(await outcome("wp", operation("plugins-list", "worker"))).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("host's own"),
    });
    expect(await outcome("wp", operation("mine", "daemon"))).toMatchObject({
      state: "failed",
      reason: expect.stringContaining("runs in the daemon".replace("runs", "run")),
    });
    expect(await outcome("wp", operation("mine", "worker"))).toMatchObject({ state: "loaded", operations: ["mine"] });
  });
});

describe("the configuration", () => {
  test("makes a plugin that it names fail loudly", async () => {
    await using home = await pluginHome();
    await home.install({ name: "wp", source: "throw new Error('broken')" });
    await expect(home.registry({ set: { plugins: { list: ["wp"] } } })).rejects.toMatchObject({
      code: "plugin_failed",
    });
    await expect(home.registry({ set: { plugins: { list: ["not-there"] } } })).rejects.toThrow("not installed");
  });

  test("leaves plugins out, or takes only those it names", async () => {
    await using home = await pluginHome();
    await home.install({ name: "wp", source: good });
    const without = await home.registry({ set: { plugins: { disable: ["wp"] } } });
    expect(without.plugins.find((each) => each.name === "wp")).toMatchObject({ state: "skipped" });
    const only = await home.registry({ set: { plugins: { list: ["wp"], discover: false } } });
    expect(only.plugins.filter((each) => each.state === "loaded").map((each) => each.name)).toEqual(["wp"]);
    expect(only.pluginSet).not.toBe(without.pluginSet);
  });
});

test("the declaring process sees no secret, and nothing is imported twice", async () => {
  await using home = await pluginHome();
  const seen = `${home.folder}/seen`;
  process.env["WAVER_ENDPOINT_KEY"] = "secret";
  try {
    await home.install({
      name: "wp",
      source: `${good}\nimport { appendFileSync } from "node:fs"; appendFileSync(${JSON.stringify(seen)}, (process.env.WAVER_ENDPOINT_KEY ?? "none") + "\\n");`,
    });
    await home.registry();
    await home.registry();
  } finally {
    delete process.env["WAVER_ENDPOINT_KEY"];
  }
  expect(await Bun.file(seen).text()).toBe("none\n");
});
