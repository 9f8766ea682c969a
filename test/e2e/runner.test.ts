/** Real runners under a real daemon: stopped by the kernel, held up by their own work, started with their settings. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Client, createClient } from "../../daemon/client.ts";
import { type Config, loadConfig } from "../../daemon/config.ts";
import { programOf, type RunningDaemon, startDaemon } from "../../daemon/main.ts";
import { eventually } from "../support/daemon.ts";
import { type PluginHome, pluginHome, pluginSource } from "../support/plugin-package.ts";

/** Much less than a user's daemon waits, much more than the second between two signs of life. */
const SILENCE_MS = 4_000;
const NAME = "wp-slow";
const SOURCE = pluginSource(
  NAME,
  "",
  `let word = "";
   const output = z.array(z.object({ pid: z.int(), word: z.string() }));
   const steps = { kind: "job", summary: "s", input: z.object({ steps: z.int() }), output, slots: {},
     async run({ steps }, _, ctx) {
       const done = [];
       for (let i = 0; i < steps; i++) {
         done.push(await ctx.unit("step " + i, output.element, async () => {
           await new Promise((resolve) => setTimeout(resolve, 100));
           return { pid: process.pid, word };
         }));
         ctx.progress(i + 1, steps, "steps");
       }
       return done;
     } };
   const hold = { kind: "job", summary: "s", runs: "device", input: z.object({ ms: z.int() }), output: z.int(), slots: {},
     async run({ ms }) { Bun.sleepSync(ms); return process.pid; } };`,
)
  .replace("config: z.strictObject({})", 'config: z.object({ word: z.string().default("none") })')
  .replace(
    "provides:",
    `setup: async ({ config }) => { word = config.word; },
     operations: { "wp-device": { ...steps, runs: "device" }, "wp-worker": { ...steps, runs: "worker" }, "wp-hold": hold },
     provides:`,
  );

let home: PluginHome;
let config: Config;
let daemon: RunningDaemon;
let client: Client;
beforeAll(async () => {
  home = await pluginHome();
  await home.install({ name: NAME, source: SOURCE });
  config = await loadConfig({
    from: home.folder,
    env: { XDG_CONFIG_HOME: home.folder },
    set: { home: home.folder, cache: join(home.folder, "cache"), plugin: { [NAME]: { word: "heard" } } },
  });
  daemon = await startDaemon({ config, program: { ...programOf(config), silenceMs: SILENCE_MS } });
  client = createClient({ home: home.folder });
});
afterAll(async () => {
  await daemon.stop();
  await home[Symbol.asyncDispose]();
});

interface Step {
  readonly pid: number;
  readonly word: string;
}

/** Stops the process that does the steps with SIGSTOP, which no process can catch: it is silent, and not dead. */
async function stopped(operation: string): Promise<void> {
  const steps = 12;
  const { id } = await client.submit(operation, { steps });
  await eventually(async () => ((await client.job(id)).progress?.done ?? 0) >= 3, 60_000);
  const pid = pidOf(operation);
  process.kill(pid, "SIGSTOP");
  const job = await client.wait(id);
  const done = job.output as Step[];
  expect(job.attempt).toBe(2);
  // What was done before the stop is not done again, and the rest was done by another process.
  expect(done.slice(0, 3).map((step) => step.pid)).toEqual([pid, pid, pid]);
  expect(done.at(-1)?.pid).not.toBe(pid);
  expect(done.length).toBe(steps);
  // Not just given up: gone, so that it cannot write when somebody lets it go on.
  expect(() => process.kill(pid, 0)).toThrow("ESRCH");
  expect(new Set(done.map(({ word }) => word))).toEqual(new Set(["heard"]));
  expect(log()).toContain(`silent for ${SILENCE_MS / 1000} s`);
}

const log = (): string => readFileSync(join(home.folder, "log", "daemon.log"), "utf8");

/** The process of the lane that an operation runs in, from the daemon's own log. */
function pidOf(operation: string): number {
  const lane = operation === "wp-worker" ? `plugin:${NAME}` : "device";
  const started = log()
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { event: string; lane?: string; pid: number })
    .findLast((line) => line.event === "process_started" && line.lane === lane);
  return started?.pid ?? 0;
}

test("the device's runner under SIGSTOP is killed and replaced, and the job goes on", () => stopped("wp-device"));

test("so is a third party's own process, which knows its plugin's settings", () => stopped("wp-worker"));

test("after a change of its plugin's code a job that goes on uses nothing that the old code did", async () => {
  const steps = 12;
  const { id } = await client.submit("wp-worker", { steps });
  await eventually(async () => ((await client.job(id)).progress?.done ?? 0) >= 3, 60_000);
  await daemon.stop();
  await home.install({ name: NAME, source: SOURCE.replace("word = config.word", 'word = config.word + " anew"') });
  daemon = await startDaemon({ config, program: { ...programOf(config), silenceMs: SILENCE_MS } });
  const job = await client.wait(id);
  expect(job.attempt).toBe(2);
  expect((job.output as Step[]).map(({ word }) => word)).toEqual(Array(steps).fill("heard anew"));
});

test("work that holds up the event loop is no silence: the engine's thread goes on beating", async () => {
  const { id } = await client.submit("wp-hold", { ms: SILENCE_MS + 3_000 });
  const job = await client.wait(id);
  expect(job.attempt).toBe(1);
  expect(job.output).toBe(pidOf("wp-hold"));
});
