/** Any plugin folder can be deleted: the host starts without it and misses nothing but what it provided. */
import { expect, test } from "bun:test";
import { cp, mkdtemp, readdir, rename, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Declarations } from "../support/declarations.ts";

const ROOT = resolve(import.meta.dir, "../..");

async function start(tree: string): Promise<Declarations> {
  const program = join(tree, "test/support/declarations.ts");
  const child = Bun.spawn([process.execPath, "--no-install", program, join(tree, "home")], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const said = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return JSON.parse(said) as Declarations;
}

test("without any one plugin the host starts", async () => {
  const tree = await mkdtemp(join(tmpdir(), "waver-tree-"));
  try {
    // A copy, because Bun resolves links: only what is imported, without weights and builds.
    const isSource = (path: string): boolean =>
      !/\/(node_modules|build|\.git)$/.test(path) && !path.endsWith(".safetensors");
    for (const name of [
      "daemon",
      "plugins",
      "native",
      "configs",
      "test/support/declarations.ts",
      "package.json",
      "tsconfig.json",
    ])
      await cp(join(ROOT, name), join(tree, name), { recursive: true, filter: isSource });
    await symlink(join(ROOT, "node_modules"), join(tree, "node_modules"));
    const whole = await start(tree);
    expect(whole.warnings).toEqual([]);
    const names = (await readdir(join(tree, "plugins"), { withFileTypes: true }))
      .filter((each) => each.isDirectory())
      .map((each) => each.name);
    for (const name of names) {
      await rename(join(tree, "plugins", name), join(tree, "away"));
      const rest = await start(tree);
      expect(rest.plugins).toEqual(whole.plugins.filter((each) => each !== name));
      expect(
        rest.warnings.filter((warning) => warning.includes("not loaded") || warning.includes("operation file")),
      ).toEqual([]);
      await rename(join(tree, "away"), join(tree, "plugins", name));
    }
    await rename(join(tree, "plugins"), join(tree, "all"));
    await cp(join(tree, "all"), join(tree, "plugins"), {
      recursive: true,
      filter: (path) => !names.some((name) => path.startsWith(join(tree, "all", name))),
    });
    expect(await start(tree)).toMatchObject({ plugins: [] });
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}, 120_000);
