/**
 * Installs and removes third-party plugins in `<home>/plugins`, a package folder of its own. Install scripts never run.
 * A failed installation leaves what was there before.
 */
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { isAbsolute, join } from "node:path";
import { z } from "zod";
import { WaverError } from "../../plugins/index.ts";
import { installFolder, readManifest } from "./discover.ts";

const Manifest = z.looseObject({
  name: z.string().optional(),
  version: z.string().optional(),
  dependencies: z.record(z.string(), z.string()).default({}),
});

/** A name of the registry, perhaps with a version. Nothing that a package manager could take for a flag or an address. */
const RegistryName = /^(@[a-z0-9][a-z0-9._~-]*\/)?[a-z0-9][a-z0-9._~-]*(@[A-Za-z0-9^~<>=.*_+-]+)?$/;

/** Tarballs given by path are kept here: the dependency must not break when the original is deleted. */
const KEPT = "packages";

/** Installs a tarball, a folder or a package of the registry; answers the package's name. */
export async function install(home: string, what: string, signal: AbortSignal): Promise<string> {
  const root = installFolder(home);
  await prepare(root);
  const before = await dependencies(root);
  const kept = isAbsolute(what) ? await keep(root, what, signal) : null;
  const spec = kept === null ? registryName(what) : `./${KEPT}/${kept}`;
  try {
    await bun(root, ["add", "--ignore-scripts", spec], signal, `${what} could not be installed`);
    const after = await dependencies(root);
    const name = Object.keys(after).find(
      (each) => after[each] !== before[each] || after[each] === spec || each === bare(what),
    );
    if (name === undefined)
      throw new WaverError("plugin_invalid", `${what} was installed, but no dependency came of it`);
    const read = await readManifest(join(root, "node_modules", name));
    if ("manifest" in read) return name;
    await uninstall(home, name, signal);
    throw new WaverError("plugin_invalid", `${name} is not a Waver plugin: ${read.reason}`, {
      hint: 'a plugin\'s package.json has the keyword "waver-plugin" and "waver": { "plugin": FILE, "hookApi": RANGE }',
    });
  } catch (error) {
    const current = await dependencies(root);
    if (kept !== null && !Object.values(current).some((each) => each.endsWith(`/${kept}`)))
      await rm(join(root, KEPT, kept), { force: true });
    throw error;
  }
}

/** Removes an installed plugin with everything that came with it. */
export async function uninstall(home: string, name: string, signal: AbortSignal): Promise<void> {
  const root = installFolder(home);
  const spec = (await dependencies(root))[name];
  if (spec === undefined)
    throw new WaverError("not_found", `no plugin named ${name} is installed`, { hint: "waver plugins list" });
  await bun(root, ["remove", name], signal, `${name} could not be removed`);
  // Bun leaves a package that a damaged lock file no longer knows.
  await rm(join(root, "node_modules", name), { recursive: true, force: true });
  if (spec.startsWith(`./${KEPT}/`)) await rm(join(root, spec), { force: true });
}

async function prepare(root: string): Promise<void> {
  await mkdir(join(root, KEPT), { recursive: true });
  const manifest = join(root, "package.json");
  // An explicit empty list replaces Bun's own list of packages whose scripts it trusts.
  if (!(await Bun.file(manifest).exists()))
    await Bun.write(
      manifest,
      `${JSON.stringify({ name: "waver-plugins", private: true, dependencies: {}, trustedDependencies: [] }, null, 2)}\n`,
    );
}

async function dependencies(root: string): Promise<Readonly<Record<string, string>>> {
  return Manifest.parse(JSON.parse(await readFile(join(root, "package.json"), "utf8"))).dependencies;
}

/** Copies a tarball, or packs a folder, into the folder of kept packages; answers the file's name. */
async function keep(root: string, path: string, signal: AbortSignal): Promise<string> {
  const facts = await stat(path).catch(() => null);
  if (facts === null) throw new WaverError("not_found", `there is nothing at ${path}`);
  if (facts.isFile()) {
    const name = `${new Bun.CryptoHasher("sha256").update(await Bun.file(path).bytes()).digest("hex")}.tgz`;
    await copyFile(path, join(root, KEPT, name));
    return name;
  }
  const packed = await mkdtemp(join(tmpdir(), "waver-pack-"));
  try {
    const problem = `the folder ${path} could not be packed`;
    await bun(path, ["pm", "pack", "--ignore-scripts", "--destination", packed], signal, problem);
    const file = (await readdir(packed)).find((each) => each.endsWith(".tgz"));
    if (file === undefined) throw new WaverError("plugin_invalid", problem);
    return await keep(root, join(packed, file), signal);
  } finally {
    await rm(packed, { recursive: true, force: true });
  }
}

function registryName(what: string): string {
  if (RegistryName.test(what)) return what;
  throw new WaverError(
    "invalid_input",
    `${what} is neither an absolute path of a tarball or folder nor the name of a package`,
  );
}

/** A registry name without its version. */
const bare = (what: string): string => what.replace(/(?<=.)@.*$/, "");

async function bun(cwd: string, args: readonly string[], signal: AbortSignal, problem: string): Promise<void> {
  signal.throwIfAborted();
  // The user's own registry settings apply, hence the whole environment; no script of a package runs.
  const child = Bun.spawn([process.execPath, ...args], { cwd, stdio: ["ignore", "ignore", "pipe"] });
  const kill = (): void => child.kill("SIGKILL");
  signal.addEventListener("abort", kill, { once: true });
  const said = await new Response(child.stderr).text();
  const code = await child.exited;
  signal.removeEventListener("abort", kill);
  signal.throwIfAborted();
  if (code === 0) return;
  const reason = said.split("\n").find((line) => line.includes("error:")) ?? `bun ${args[0]} ended with code ${code}`;
  throw new WaverError("plugin_failed", `${problem}: ${reason.replace(/^.*error:\s*/, "")}`);
}

/** Writes several files into a folder that appears whole or not at all. */
export async function writeFolder(folder: string, files: Readonly<Record<string, string>>): Promise<void> {
  const existing = await readdir(folder).catch(() => null);
  if (existing !== null && existing.length > 0) throw new WaverError("conflict", `the folder ${folder} is not empty`);
  await mkdir(join(folder, ".."), { recursive: true });
  const temporary = await mkdtemp(`${folder}.`);
  try {
    for (const [name, text] of Object.entries(files)) await Bun.write(join(temporary, name), text);
    if (existing !== null) await rm(folder, { recursive: true });
    await rename(temporary, folder);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}
