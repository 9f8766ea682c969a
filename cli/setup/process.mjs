// Child processes, messages and small file facts of set-up. Plain ESM: Node 20 runs it before anything is installed.
import { spawn } from "node:child_process";
import { accessSync, constants, readdirSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/** A failure whose message is one sentence that says what to do. */
export class SetupError extends Error {}

/** Progress goes to stderr, so that stdout stays the output of the command that set-up hands over to. */
export function say(text) {
  process.stderr.write(`setup: ${text}\n`);
}

export function which(name, path = process.env.PATH ?? "") {
  for (const folder of path.split(delimiter)) {
    const file = join(folder || ".", name);
    if (isExecutable(file)) return file;
  }
  return null;
}

export function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

const running = new Set();

/** Ends what set-up started; a child that outlives it would go on writing into the cache. */
export function endChildren() {
  for (const child of running) child.kill("SIGTERM");
}

/** Runs a command, keeps its output, never throws for an exit code. `onLine` sees every line as it comes. */
export function run(command, args, { cwd, env, input, onLine } = {}) {
  const start = performance.now();
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "pipe"] });
    running.add(child);
    let stdout = "";
    let all = "";
    let rest = "";
    const take = (text, isStdout) => {
      if (isStdout) stdout += text;
      all = (all + text).slice(-64_000);
      if (!onLine) return;
      const lines = (rest + text).split(/\r?\n|\r/);
      rest = lines.pop() ?? "";
      for (const line of lines) onLine(line);
    };
    child.stdout.setEncoding("utf8").on("data", (text) => take(text, true));
    child.stderr.setEncoding("utf8").on("data", (text) => take(text, false));
    const done = (code) => {
      running.delete(child);
      resolve({ code, stdout, all, seconds: (performance.now() - start) / 1000 });
    };
    child.on("error", (error) => {
      all += String(error.message);
      done(127);
    });
    child.on("close", (code, signal) => done(code ?? (signal ? 128 : 1)));
    child.stdin.on("error", () => undefined); // a child that exits early closes its input: its exit code tells
    child.stdin.end(input ?? "");
  });
}

/** The line of a failed command's output that says most: the last one with "error" in it, else the last. */
export function lastError(output) {
  const lines = output
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return lines.findLast((line) => /error|failed|unable|cannot/i.test(line)) ?? lines.at(-1) ?? "no output";
}

export function megabytes(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`;
}

/** Bytes of all files below a folder; files that vanish while it looks count as nothing. */
export function bytesBelow(folder) {
  let total = 0;
  let entries = [];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch {
    return 0;
  }
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) total += bytesBelow(path);
    else total += statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  }
  return total;
}

/** Awaits `work` and prints `line(seconds)` every `every` seconds while it runs. */
export async function narrated(work, every, line) {
  const start = Date.now();
  const timer = setInterval(() => {
    const text = line(Math.round((Date.now() - start) / 1000));
    if (text) say(text);
  }, every * 1000);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}

/** Replaces this process as far as Node can: same terminal, signals passed on, same exit code. */
export function handOver(command, args, env) {
  // Before there is a child: a signal that came between the two would end this process and leave the child behind.
  let child;
  // A terminal sends SIGINT to the whole group, so the child already has it; a second one would mean "at once".
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]) {
    process.on(signal, () => {
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    });
  }
  child = spawn(command, args, { stdio: "inherit", env });
  child.on("error", (error) => {
    process.stderr.write(`waver: ${command} did not start: ${error.message}\n`);
    process.exit(126);
  });
  child.on("exit", (code, signal) => {
    if (!signal) process.exit(code ?? 1);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}
