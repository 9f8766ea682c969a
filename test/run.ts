// The `npm test` driver: every step below in order, then one line `N passed, N failed`.
//
//   bun test/run.ts [path part ...] [--only unit|e2e|quickstart] [--long | --release] [--file-timeout SECONDS] [--verbose]
//
// A path part runs only the test files whose path contains it. Each test file is a process of its own: a native crash,
// a leak or a hang costs that file and is named, and the next one starts clean (a Bun process costs 10 ms).
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const root = join(import.meta.dir, "..");
const bun = process.execPath;

interface Outcome {
  readonly name: string;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: readonly string[];
  readonly seconds: number;
  /** Printed when something failed. */
  readonly output: string;
}

/** Either one process that counts as one test, or the test files that `files` accepts. */
interface Step {
  readonly name: string;
  readonly suite: "unit" | "e2e" | "quickstart";
  readonly command?: readonly string[];
  readonly limit?: number;
  /** A home and an output folder of the step's own, whose daemon is stopped afterwards. */
  readonly ownHome?: true;
  readonly files?: (path: string) => boolean;
}

interface Settings {
  readonly paths: readonly string[];
  readonly fileTimeout: number;
  readonly verbose: boolean;
  readonly env: NodeJS.ProcessEnv;
}

const steps: readonly Step[] = [
  { name: "types", suite: "unit", command: ["node_modules/typescript/bin/tsc", "--noEmit"], limit: 120 },
  { name: "unit tests", suite: "unit", files: (path) => !path.startsWith("test/e2e/") },
  { name: "end to end", suite: "e2e", files: (path) => path.startsWith("test/e2e/") },
  // The whole main job in two minutes, as a user starts it.
  {
    name: "quick start",
    suite: "quickstart",
    command: ["cli/index.ts", "quickstart", "--profile", "test"],
    limit: 900,
    ownHome: true,
  },
];

/** Folders whose tests compute with libtorch, which uses every core: one at a time, or their timings mean nothing. */
const usesAllCores = /^(native|plugins|test\/(e2e|golden|leak|parity|bench))\//;

async function runCommand(
  settings: Settings,
  name: string,
  command: readonly string[],
  limit: number,
): Promise<Outcome> {
  const { code, output, seconds } = await runProcess(command, limit, settings);
  const outcome = { name, passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: [], seconds, output };
  report(outcome, settings);
  return outcome;
}

async function testFiles(settings: Settings, belongs: (file: string) => boolean): Promise<Outcome[]> {
  const glob = new Bun.Glob("{cli,configs,daemon,native,plugins,test}/**/*.test.ts");
  const files = [...glob.scanSync({ cwd: root, dot: false })]
    .filter((file) => !file.includes("node_modules/") && !file.startsWith("native/build/") && belongs(file))
    .filter((file) => settings.paths.length === 0 || settings.paths.some((part) => file.includes(part)))
    .sort();
  const outcomes: Outcome[] = [];
  const lane = async (queue: string[]): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const outcome = await testFile(settings, file);
      report(outcome, settings);
      outcomes.push(outcome);
    }
  };
  const light = files.filter((file) => !usesAllCores.test(file));
  await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, () => lane(light)));
  await lane(files.filter((file) => usesAllCores.test(file)));
  return outcomes;
}

async function testFile(settings: Settings, file: string): Promise<Outcome> {
  const timeout = settings.fileTimeout;
  const { code, output, seconds } = await runProcess(["test", `./${file}`], timeout, settings);
  const count = (word: string): number => Number(output.match(new RegExp(`^ *(\\d+) ${word}$`, "m"))?.[1] ?? 0);
  const passed = count("pass");
  const skipped = [...output.matchAll(/^\((?:skip|todo)\) (.+)$/gm)].map((match) => match[1] ?? "");
  // A file that crashes or hangs prints no summary, and one without tests is a file that was forgotten.
  const silent = code !== 0 || passed + skipped.length + count("skip") + count("todo") === 0 ? 1 : 0;
  return { name: file, passed, failed: Math.max(count("fail"), silent), skipped, seconds, output };
}

interface Finished {
  readonly code: number;
  readonly output: string;
  readonly seconds: number;
}

const groups = new Set<number>();
const orphans = "processes were still running two seconds after the end; they were ended";

/** Runs Bun on `args` as the leader of a process group, so that a hung one ends with all that it started. */
async function runProcess(args: readonly string[], timeout: number, settings: Settings): Promise<Finished> {
  const start = performance.now();
  const child = spawn(bun, args, { cwd: root, env: settings.env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  const group = child.pid ?? 0;
  if (group) groups.add(group);
  let output = "";
  const take = (text: string): void => {
    output += text;
    if (settings.verbose) process.stdout.write(text);
  };
  child.stdout.setEncoding("utf8").on("data", take);
  child.stderr.setEncoding("utf8").on("data", take);
  const timer = setTimeout(() => {
    take(`\nkilled: no end after ${timeout} s\n`);
    endGroup(group);
  }, timeout * 1000);
  child.on("error", (error) => take(`${error.message}\n`));
  const closed = once(child, "close");
  const [code, signal] = (await once(child, "exit")) as [number | null, NodeJS.Signals | null];
  clearTimeout(timer);
  // What outlives its test would disturb the next one, and holds the output pipe open.
  const left = !(await isEmpty(group, 2_000));
  if (left) {
    take(`\n${orphans}\n`);
    endGroup(group);
  }
  groups.delete(group);
  await closed;
  if (signal) take(`\nended by ${signal}\n`);
  return { code: left ? 1 : (code ?? 1), output, seconds: (performance.now() - start) / 1000 };
}

/** True when no process of the group is left, at last after `ms`. The dead that nobody has buried do not count. */
async function isEmpty(group: number, ms: number): Promise<boolean> {
  for (const end = performance.now() + ms; hasMember(group); await Bun.sleep(50))
    if (performance.now() > end) return false;
  return true;
}

function hasMember(group: number): boolean {
  return readdirSync("/proc").some((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      // pid (name) state parent group; the name may hold anything, brackets too
      const [state, , of] = readFileSync(`/proc/${name}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
      return Number(of) === group && state !== "Z" && state !== "X";
    } catch (error) {
      if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
      throw error;
    }
  });
}

function endGroup(group: number): void {
  try {
    process.kill(-group, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function report(outcome: Outcome, { verbose }: Settings): void {
  const { name, passed, failed, skipped, seconds, output } = outcome;
  const counts = [
    `${passed} passed`,
    failed ? `${failed} failed` : "",
    skipped.length ? `${skipped.length} skipped` : "",
  ];
  console.log(`${failed ? "FAIL" : "ok  "} ${name}  ${counts.filter(Boolean).join(", ")}  ${seconds.toFixed(1)} s`);
  if (failed && !verbose) console.log(output.trimEnd().replace(/^/gm, "     "));
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    args: process.argv.slice(2),
    allowPositionals: true,
    options: {
      only: { type: "string" },
      long: { type: "boolean" },
      release: { type: "boolean" },
      "file-timeout": { type: "string" },
      verbose: { type: "boolean", short: "v" },
    },
  });
  const suites = steps.map((step) => step.suite);
  if (values.only !== undefined && !suites.some((suite) => suite === values.only)) {
    console.error(`--only is one of ${[...new Set(suites)].join(", ")}`);
    return 2;
  }
  const size = values.release ? "release" : values.long ? "long" : "default";
  const settings: Settings = {
    paths: positionals.map((path) => path.replace(/^\.\//, "")),
    fileTimeout: Number(values["file-timeout"] ?? (size === "default" ? 300 : 3600)),
    verbose: values.verbose ?? false,
    env: { ...process.env, WAVER_TEST_SIZE: size, NO_COLOR: "1", FORCE_COLOR: "0" },
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      for (const group of groups) endGroup(group);
      process.exit(signal === "SIGINT" ? 130 : 143);
    });
  }
  const start = performance.now();
  const outcomes: Outcome[] = [];
  for (const { name, suite, command, limit = 600, files, ownHome } of steps) {
    if (values.only !== undefined && suite !== values.only) continue;
    if (files) outcomes.push(...(await testFiles(settings, files)));
    else if (command && settings.paths.length === 0) {
      // Minutes of work are shown as they go; the rest prints one line, and its output only when it failed.
      const shown = { ...settings, verbose: settings.verbose || suite === "quickstart" };
      outcomes.push(
        ownHome ? await inOwnHome(shown, name, command, limit) : await runCommand(shown, name, command, limit),
      );
    }
  }
  return summary(outcomes, (performance.now() - start) / 1000);
}

/** A step that starts a daemon leaves neither it nor its files behind. */
async function inOwnHome(
  settings: Settings,
  name: string,
  command: readonly string[],
  limit: number,
): Promise<Outcome> {
  const folder = await mkdtemp(join(tmpdir(), "waver-test-"));
  const own = { ...settings, env: { ...settings.env, WAVER_HOME: join(folder, "home") } };
  try {
    return await runCommand(own, name, [...command, "--output", join(folder, "out")], limit);
  } finally {
    await runCommand({ ...own, verbose: false }, "stop", ["cli/index.ts", "stop"], 60);
    await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 500 });
  }
}

function summary(outcomes: readonly Outcome[], seconds: number): number {
  const sum = (of: (outcome: Outcome) => number): number => outcomes.reduce((total, outcome) => total + of(outcome), 0);
  const [passed, failed, skipped] = [sum((o) => o.passed), sum((o) => o.failed), sum((o) => o.skipped.length)];
  console.log("");
  for (const { name, skipped } of outcomes) for (const test of skipped) console.log(`skipped: ${name}: ${test}`);
  for (const outcome of outcomes) if (outcome.failed) console.log(`failed:  ${outcome.name}`);
  console.log(`${outcomes.length} files and steps, ${skipped} tests skipped, ${seconds.toFixed(0)} s`);
  if (passed + failed === 0) console.log("no test ran: no file matches");
  console.log(`${passed} passed, ${failed} failed`);
  return failed > 0 || passed === 0 ? 1 : 0;
}

process.exitCode = await main();
