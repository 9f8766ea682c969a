/** The plugins of this host: what is loaded and why not, adding, removing, starting and checking one. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { defineOperation, WaverError, z } from "../../plugins/index.ts";
import { scrubbedEnv } from "../plugins/host.ts";
import { install, uninstall, writeFolder } from "../plugins/install.ts";
import { forgetDeclaration } from "../plugins/load.ts";
import { template } from "../plugins/template.ts";
import { PluginDoc } from "../wire.ts";
import { type Daemon, daemonOf } from "./context.ts";

/** Running all suites of a plugin; beyond it the plugin hangs. */
const CHECK_MS = 120_000;

const PackageName = z
  .string()
  .regex(/^(@[a-z0-9][a-z0-9._-]*\/)?[a-z0-9][a-z0-9._-]*$/, "a package name: lower-case letters, digits, - . and _");
const Folder = z.string().refine((path) => path.startsWith("/"), "an absolute path");

const list = defineOperation({
  kind: "query",
  summary: "lists plugins with what they provide, and why one is not loaded",
  runs: "daemon",
  input: z.object({ state: PluginDoc.shape.state.optional().meta({ description: "only plugins in this state" }) }),
  output: z.array(PluginDoc),
  slots: {},
  examples: ["waver plugins list", "waver plugins list --state failed"],
  run: async ({ state }, _, ctx) =>
    daemonOf(ctx)
      .registry()
      .plugins.filter((plugin) => state === undefined || plugin.state === state)
      .map((plugin) => ({ ...plugin })),
});

const add = defineOperation({
  kind: "job",
  summary: "installs a plugin from a tarball, a folder or the package registry, without its install scripts",
  runs: "daemon",
  input: z.object({
    package: z.string().min(1).meta({ description: "path of a tarball or folder, or a package name" }),
  }),
  output: PluginDoc,
  slots: {},
  examples: ["waver plugins add ./my-plugin", "waver plugins add my-plugin-1.0.0.tgz"],
  run: async ({ package: what }, _, ctx) => {
    const daemon = daemonOf(ctx);
    return alone(async () => {
      const name = await install(daemon.config.home, what, ctx.signal);
      const plugin = (await daemon.reload()).plugins.find((each) => each.name === name);
      if (plugin?.state === "loaded") return { ...plugin };
      await remove(daemon, name, ctx.signal);
      throw new WaverError(
        "plugin_invalid",
        `${name} was not added: ${plugin?.reason ?? "it was not found after installation"}`,
        {
          data: { plugin: name },
        },
      );
    });
  },
});

const removal = defineOperation({
  kind: "job",
  summary: "removes an installed plugin",
  runs: "daemon",
  input: z.object({ name: PackageName }),
  output: z.object({ removed: z.string() }),
  slots: {},
  examples: ["waver plugins remove waver-plugin-example"],
  run: async ({ name }, _, ctx) => {
    const daemon = daemonOf(ctx);
    const known = daemon.registry().plugins.find((each) => each.name === name);
    if (known?.origin === "builtin")
      throw new WaverError("conflict", `${name} is a built-in plugin`, {
        hint: `leave it out with plugins.disable: ["${name}"]`,
      });
    await alone(() => remove(daemon, name, ctx.signal));
    return { removed: name };
  },
});

const start = defineOperation({
  kind: "query",
  summary: "writes a working plugin with one scorer to start from",
  runs: "daemon",
  input: z.object({
    name: PackageName,
    folder: Folder.meta({ description: "a folder that is empty or not there", format: "path" }),
  }),
  output: z.object({ folder: z.string(), files: z.array(z.string()) }),
  slots: {},
  examples: ["waver plugins new --name my-scorer --folder ./my-scorer"],
  run: async ({ name, folder }) => {
    const files = template(name);
    await writeFolder(folder, files);
    return { folder, files: Object.keys(files) };
  },
});

const FindingSchema = z.object({ subject: z.string(), check: z.string(), ok: z.boolean(), reason: z.string() });

const check = defineOperation({
  kind: "job",
  summary: "runs the contract suites on a plugin folder",
  runs: "daemon",
  input: z.object({ folder: Folder.meta({ description: "the plugin's folder", format: "path" }) }),
  output: z.object({ ok: z.boolean(), findings: z.array(FindingSchema) }),
  slots: {},
  examples: ["waver plugins check ."],
  run: async ({ folder }, _, ctx) => {
    const output = join(ctx.workDir, "findings.json");
    await rm(output, { force: true });
    const suite = join(import.meta.dir, "../plugins/suite.ts");
    const child = Bun.spawn([process.execPath, "--no-install", suite, folder, output], {
      env: scrubbedEnv(),
      stdio: ["ignore", "ignore", "ignore"],
    });
    const timeout = AbortSignal.timeout(CHECK_MS);
    const kill = (): void => child.kill("SIGKILL");
    AbortSignal.any([ctx.signal, timeout]).addEventListener("abort", kill, { once: true });
    const code = await child.exited;
    ctx.signal.throwIfAborted();
    if (timeout.aborted)
      throw new WaverError("plugin_timeout", `the suites did not finish within ${CHECK_MS / 1000} s`);
    if (!(await Bun.file(output).exists()))
      throw new WaverError("plugin_failed", `the plugin ended the process with ${child.signalCode ?? `code ${code}`}`);
    const findings = z.array(FindingSchema).parse(await Bun.file(output).json());
    return { ok: findings.every((each) => each.ok), findings };
  },
});

export const operations = {
  "plugins-list": list,
  "plugins-add": add,
  "plugins-remove": removal,
  "plugins-new": start,
  "plugins-check": check,
};

async function remove(daemon: Daemon, name: string, signal: AbortSignal): Promise<void> {
  const loaded = daemon.registry().loaded.get(name);
  await uninstall(daemon.config.home, name, signal);
  if (loaded !== undefined) await forgetDeclaration(daemon.config, loaded.digest);
  await daemon.reload();
}

let last: Promise<unknown> = Promise.resolve();

/** One change to the folder of plugins at a time. */
function alone<T>(work: () => Promise<T>): Promise<T> {
  const mine = last.then(work, work);
  last = mine;
  return mine;
}
