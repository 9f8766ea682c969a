/**
 * A third party's plugin from an installed tarball that crashes, hangs or floods (reliability.md P1): the daemon and the
 * jobs of others go on, a hang is cut off, and the device's runner comes back without the one that took it down.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { type Client, createClient } from "../../daemon/client.ts";
import { loadConfig } from "../../daemon/config.ts";
import { programOf, type RunningDaemon, startDaemon } from "../../daemon/main.ts";
import type { JobView } from "../../daemon/wire.ts";
import type { WaverError } from "../../plugins/errors.ts";
import { eventually } from "../support/daemon.ts";
import { type PluginHome, pluginHome, pluginSource } from "../support/plugin-package.ts";

const ROGUE = "waver-plugin-rogue";
const FIXTURE = join(import.meta.dir, "../fixtures/plugin-rogue");
/** Much less than a person's daemon waits. */
const PATIENCE = 2;
/** An innocent plugin: counts on the device, and passes a prompt through whoever it is told to. */
const CALM = pluginSource(
  "wp-calm",
  `provide("rewrite", { id: "calm", summary: "s", runs: "worker", options: z.object({}), traits: {}, run: async (prompt) => prompt })`,
  `const prompt = { text: "a ball", task: "t2v", seconds: 5 };
   const job = (runs) => ({ kind: "job", summary: "s", runs, input: z.object({ steps: z.int().default(0) }), output: z.object({ pid: z.int() }),
     slots: { rewrite: { hook: "rewrite", summary: "who", default: { id: "calm" } } },
     async run({ steps }, { rewrite }, ctx) {
       for (let i = 0; i < steps; i++) { await new Promise((resolve) => setTimeout(resolve, 50)); ctx.progress(i + 1, steps, "steps"); }
       await (await ctx.use("rewrite", rewrite.id, rewrite))(prompt);
       return { pid: process.pid };
     } });`,
).replace("provides:", `operations: { "calm-device": job("device"), "calm-worker": job("worker") }, provides:`);

let home: PluginHome;
let daemon: RunningDaemon;
let client: Client;
beforeAll(async () => {
  home = await pluginHome();
  const config = await loadConfig({
    from: home.folder,
    env: { XDG_CONFIG_HOME: home.folder },
    set: { home: home.folder, cache: join(home.folder, "cache"), patience: PATIENCE },
  });
  daemon = await startDaemon({ config, program: { ...programOf(config), silenceMs: 4_000 } });
  client = createClient({ home: home.folder });
  const calm = join(home.folder, "calm");
  const manifest = await Bun.file(join(FIXTURE, "package.json")).json();
  await Bun.write(join(calm, "package.json"), JSON.stringify({ ...manifest, name: "wp-calm" }));
  await Bun.write(join(calm, "index.ts"), CALM);
  for (const folder of [FIXTURE, calm]) await finished("plugins-add", { package: await packed(folder) });
}, 120_000);
afterAll(async () => {
  await daemon.stop();
  await home[Symbol.asyncDispose]();
});

/** A tarball of a package, as its author would publish it. */
async function packed(folder: string): Promise<string> {
  const into = join(home.folder, "packed", basename(folder));
  await mkdir(into, { recursive: true });
  const child = Bun.spawn([process.execPath, "pm", "pack", "--destination", into], {
    cwd: folder,
    stdio: ["ignore", "ignore", "inherit"],
  });
  expect(await child.exited).toBe(0);
  return join(into, (await readdir(into))[0] as string);
}

async function finished(operation: string, body: Readonly<Record<string, unknown>>): Promise<JobView> {
  const { id } = await client.submit(operation, body);
  return client.wait(id);
}

async function failed(operation: string, body: Readonly<Record<string, unknown>>): Promise<WaverError> {
  try {
    await finished(operation, body);
  } catch (error) {
    return error as WaverError;
  }
  throw new Error("it did not fail");
}

const stateOfRogue = async (): Promise<{ state: string; reason: string } | undefined> =>
  (await client.plugins()).find(({ name }) => name === ROGUE);
const isOut = async (): Promise<boolean> => (await stateOfRogue())?.state === "quarantined";
/** What a person does when they have mended it, or believe so. */
const forgiven = async (): Promise<void> => {
  await client.reloadPlugins();
  expect((await stateOfRogue())?.state).toBe("loaded");
};
const log = (): Promise<string> => readFile(join(home.folder, "log", "daemon.log"), "utf8");

test("in its own process a hang is cut off, a failure is told, and others do not notice", async () => {
  const others = finished("calm-worker", { steps: 60 });
  const began = performance.now();
  const hang = await failed("rogue-worker", { how: "hang" });
  expect(hang).toMatchObject({ code: "plugin_timeout", data: { plugin: ROGUE } });
  expect(hang.message).toContain(`no sign of life for ${PATIENCE} s`);
  console.log(`a hang was cut off after ${((performance.now() - began) / 1000).toFixed(1)} s (patience ${PATIENCE} s)`);
  expect((await failed("rogue-worker", { how: "throw" })).message).toContain("the rogue threw");
  expect((await finished("rogue-worker", { how: "flood" })).state).toBe("done");
  // A provider that hangs is named as such to the job that used it, and that job's process is not blamed.
  const used = await failed("calm-worker", { rewrite: { id: "rogue-worker", how: "hang" } });
  expect(used).toMatchObject({ code: "plugin_timeout", data: { plugin: ROGUE, hook: "rewrite", id: "rogue-worker" } });
  expect((await others).attempt).toBe(1);
  expect(await isOut()).toBe(false);
});

test("three offences in its own process put it out of service", async () => {
  await forgiven();
  for (const how of ["segfault", "exit", "reject"])
    expect((await failed("calm-worker", { rewrite: { id: "rogue-worker", how } })).code).toBe("plugin_failed");
  await eventually(isOut);
  const refused = await failed("calm-worker", { rewrite: { id: "rogue-worker" } });
  expect(refused).toMatchObject({ code: "no_provider", hint: expect.stringContaining(`${ROGUE} is out of service`) });
  const operation = await client.submit("rogue-worker", {}).catch((error: unknown) => error as WaverError);
  expect(operation).toMatchObject({ code: "unknown_operation", hint: expect.stringContaining("out of service") });
});

test("an endless loop in its own process is cut off by the daemon", async () => {
  await forgiven();
  expect((await failed("calm-worker", { rewrite: { id: "rogue-worker", how: "spin" } })).code).toBe("plugin_failed");
});

for (const how of ["segfault", "exit", "reject"] as const)
  test(`${how} on the device: the runner comes back without it, and says so`, async () => {
    await forgiven();
    const error = await failed("calm-device", { rewrite: { id: "rogue-device", how } });
    expect([error.code, error.hint]).toEqual([
      expect.stringMatching(/plugin_failed|no_provider/),
      expect.stringContaining(`${ROGUE} is out of service`),
    ]);
    await eventually(isOut);
    expect((await stateOfRogue())?.reason).toMatch(/at work when the runner of the device ended/);
    // The runner is back, for everybody else.
    expect((await finished("calm-device", { steps: 2 })).state).toBe("done");
    const started = (await log())
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { event: string; lane?: string; without?: string[] })
      .findLast(({ event, lane }) => event === "process_started" && lane === "device");
    expect(started?.without).toEqual([ROGUE]);
  });

test("an operation of its own that crashes the device fails with the reason, and waiting jobs of others are done", async () => {
  await forgiven();
  const mine = failed("rogue-device", { how: "segfault" });
  const others = [finished("calm-device", { steps: 2 }), finished("calm-device", { steps: 3 })];
  const error = await mine;
  expect(error.code).toBe("plugin_failed");
  expect(error.hint).toContain(`${ROGUE} is out of service`);
  for (const job of await Promise.all(others)) expect(job.state).toBe("done");
});

test("a hang on the device is cut off, the runner replaced; an endless loop costs the runner and puts it out", async () => {
  await forgiven();
  const before = ((await finished("calm-device", {})).output as { pid: number }).pid;
  const hang = await failed("calm-device", { rewrite: { id: "rogue-device", how: "hang" } });
  expect(hang).toMatchObject({ code: "plugin_timeout", data: { plugin: ROGUE } });
  expect(await isOut()).toBe(false);
  expect(((await finished("calm-device", {})).output as { pid: number }).pid).not.toBe(before);
  const spin = await failed("rogue-device", { how: "spin" });
  expect([spin.code, spin.hint]).toEqual(["plugin_failed", expect.stringContaining("out of service")]);
  expect((await stateOfRogue())?.reason).toContain(`with code of ${ROGUE} at work`);
  expect((await finished("calm-device", {})).state).toBe("done");
});

test("the daemon is the one that was started, and no process of the plugin is left", async () => {
  expect((await client.status()).pid).toBe(process.pid);
  expect(await log()).not.toContain('"event":"journal_failed"');
  const files = await readdir(join(home.folder, "run", "processes"));
  const alive = files.filter((name) => name.endsWith(".json")).map((name) => Number.parseInt(name, 10));
  for (const name of files) expect(alive).toContain(Number.parseInt(name, 10));
});
