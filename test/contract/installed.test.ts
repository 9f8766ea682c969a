/** A third party's package, from tarball to removal: it works like a built-in plugin, and leaves nothing behind. */
import { expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { BUILTIN_FOLDER } from "../../daemon/plugins/discover.ts";
import { type Inline, openInline } from "../../daemon/runner/inline.ts";
import type { PluginDoc } from "../../daemon/wire.ts";
import { pluginHome } from "../support/plugin-package.ts";

/** The built-ins beside which a third party's plugin is tried: few, since nothing here is about them. */
const KEPT = ["guide-cfg", "score-basic", "storage-local"];
const EXAMPLE = join(import.meta.dir, "../fixtures/plugin-example");

async function packed(into: string): Promise<string> {
  const child = Bun.spawn([process.execPath, "pm", "pack", "--destination", into], {
    cwd: EXAMPLE,
    stdio: ["ignore", "ignore", "inherit"],
  });
  expect(await child.exited).toBe(0);
  const file = (await readdir(into)).find((name) => name.endsWith(".tgz"));
  return join(into, file as string);
}

const idsOf = (inline: Inline, hook: "score" | "guide"): string[] =>
  inline
    .registry()
    .providers(hook)
    .map(({ id }) => id);

test("a tarball adds a scorer and a guide, and removing it leaves nothing", async () => {
  await using home = await pluginHome();
  const tarball = await packed(home.folder);
  // Without the others no edit of a built-in plugin, made while this runs, counts as something left behind.
  const builtin = (await readdir(BUILTIN_FOLDER, { withFileTypes: true })).filter((each) => each.isDirectory());
  const disable = builtin.map(({ name }) => name).filter((name) => !KEPT.includes(name));
  await using inline = await openInline({ config: await home.config({ set: { plugins: { disable } } }) });
  const before = inline.registry();

  const added = await inline.run("plugins-add", { package: tarball });
  expect(added.output as PluginDoc).toMatchObject({
    name: "waver-plugin-example",
    version: "1.2.3",
    origin: "installed",
    state: "loaded",
  });
  expect(idsOf(inline, "score")).toContain("length");
  expect(idsOf(inline, "guide")).toContain("late");
  const docs = inline.registry().docs();
  expect(docs.providers.find(({ id }) => id === "length")).toMatchObject({
    plugin: "waver-plugin-example",
    options: { properties: { per: { type: "number", default: 1, description: "seconds that count as one" } } },
  });
  expect(docs.pluginSet).not.toBe(before.pluginSet);

  // Every operation with a slot of the hook now takes the new provider, options and all, without any edit.
  const slots = docs.operations.flatMap((operation) =>
    Object.entries(operation.slots)
      .filter(([, slot]) => slot.hook === "guide")
      .map(([name]) => (operation.input["properties"] as Record<string, unknown>)[name]),
  );
  expect(slots.length).toBeGreaterThan(0);
  for (const slot of slots) expect(JSON.stringify(slot)).toContain('"late"');

  await Bun.file(tarball).delete();
  await inline.run("plugins-remove", { name: "waver-plugin-example" });
  expect(inline.registry().pluginSet).toBe(before.pluginSet);
  expect(inline.registry().docs()).toEqual(before.docs());
  expect(await readdir(join(home.folder, "plugins/node_modules"))).toEqual([]);
  expect(await readdir(join(home.folder, "plugins/packages"))).toEqual([]);
  expect(await readdir(join(home.folder, "cache/declarations"))).toEqual([]);
}, 60_000);

test("what is no plugin is not left installed", async () => {
  await using home = await pluginHome();
  await using inline = await openInline({ config: await home.config() });
  const library = join(home.folder, "library");
  await Bun.write(join(library, "package.json"), JSON.stringify({ name: "some-library", version: "1.0.0" }));
  await expect(inline.run("plugins-add", { package: library })).rejects.toMatchObject({ code: "plugin_invalid" });
  const broken = join(home.folder, "broken");
  await Bun.write(
    join(broken, "package.json"),
    JSON.stringify({
      name: "wp-broken",
      version: "1.0.0",
      keywords: ["waver-plugin"],
      waver: { plugin: "./index.ts", hookApi: "0.1" },
    }),
  );
  await Bun.write(join(broken, "index.ts"), "throw new Error('no licence key')");
  await expect(inline.run("plugins-add", { package: broken })).rejects.toThrow("no licence key");
  for (const what of [join(home.folder, "nothing.tgz"), "--registry=x", "https://somewhere/x.tgz"])
    await expect(inline.run("plugins-add", { package: what })).rejects.toMatchObject({
      code: expect.stringMatching(/not_found|invalid_input/),
    });
  expect(await readdir(join(home.folder, "plugins/packages"))).toEqual([]);
  expect(inline.registry().plugins.filter((each) => each.origin === "installed")).toEqual([]);
}, 60_000);

test("a new plugin keeps the contract, and the suites find what breaks it", async () => {
  await using home = await pluginHome();
  await using inline = await openInline({ config: await home.config() });
  const folder = join(home.folder, "mine");
  await inline.run("plugins-new", { name: "wp-mine", folder });
  await expect(inline.run("plugins-new", { name: "wp-mine", folder })).rejects.toMatchObject({ code: "conflict" });
  expect((await inline.run("plugins-check", { folder })).output).toMatchObject({ ok: true });
  const source = await Bun.file(join(folder, "index.ts")).text();
  await Bun.write(join(folder, "index.ts"), source.replace("return { brightness:", "return { brightnes:"));
  const { output } = await inline.run("plugins-check", { folder });
  expect(output).toMatchObject({ ok: false });
  expect(JSON.stringify(output)).toContain("brightness, which it did not return");
}, 60_000);
