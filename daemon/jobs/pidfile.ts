/**
 * Which processes are ours: a pid file holds the pid and the moment that process started, so that a pid that the
 * system gave to somebody else is never mistaken for one of ours.
 */
import { Database } from "bun:sqlite";
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { WaverError } from "../../plugins/errors.ts";

const PidFile = z.object({ pid: z.int().positive(), started: z.string() });

/** When a process started, as the system writes it; null when there is no such process (a zombie is none). */
export function processStart(pid: number): string | null {
  if (process.platform === "linux") {
    let stat: string;
    try {
      stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT" || (error as NodeJS.ErrnoException).code === "ESRCH")
        return null;
      throw error;
    }
    // The name in brackets may hold blanks: fields are counted from the last bracket (state is the first, start time the 20th).
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? null : (fields[19] ?? null);
  }
  const listed = Bun.spawnSync(["ps", "-o", "lstart=", "-p", String(pid)])
    .stdout.toString()
    .trim();
  return listed === "" ? null : listed;
}

export const isAlive = (file: { pid: number; started: string }): boolean => processStart(file.pid) === file.started;

function readPidFile(path: string): z.output<typeof PidFile> | null {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  try {
    return PidFile.parse(JSON.parse(text));
  } catch {
    // Cut off by a crash while it was written: it names nobody.
    return null;
  }
}

export function writePidFile(path: string, pid: number): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const started = processStart(pid);
  if (started === null) return;
  const fresh = `${path}.${process.pid}`;
  const fd = openSync(fresh, "w", 0o600);
  writeSync(fd, JSON.stringify({ pid, started }));
  closeSync(fd);
  renameSync(fresh, path);
}

/** Makes this process the only daemon of a home: two that start at once cannot both get the lock. The pid file only tells who has it. */
export function lockHome(runDir: string): Disposable {
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  const path = join(runDir, "daemon.json");
  const lock = exclusive(join(runDir, "lock"));
  if (lock === null) {
    const holder = readPidFile(path);
    throw new WaverError(
      "conflict",
      `a daemon${holder === null ? "" : ` (process ${holder.pid})`} already serves this home`,
      {
        hint: "use it, stop it with `waver stop`, or give this one another --home",
        ...(holder === null ? {} : { data: { pid: holder.pid } }),
      },
    );
  }
  writePidFile(path, process.pid);
  return {
    [Symbol.dispose]: () => {
      rmSync(path, { force: true });
      lock[Symbol.dispose]();
    },
  };
}

/** The kernel's lock on a file, until it is disposed or the process ends, however that happens; null when somebody has it. */
export function exclusive(path: string): Disposable | null {
  const lock = new Database(path, { create: true });
  try {
    lock.run("PRAGMA busy_timeout = 0");
    lock.run("BEGIN EXCLUSIVE");
  } catch (error) {
    lock.close();
    if ((error as { code?: unknown }).code !== "SQLITE_BUSY") throw error;
    return null;
  }
  return { [Symbol.dispose]: () => lock.close() };
}

/** Kills what an earlier daemon of this home left running, and waits until it is gone. Returns the pids. */
export async function reapOrphans(folder: string): Promise<number[]> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const reaped: number[] = [];
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const found = readPidFile(path);
    if (found !== null && isAlive(found)) {
      killGroup(found.pid, "SIGKILL");
      for (let waited = 0; isAlive(found) && waited < 5_000; waited += 20) await Bun.sleep(20);
      reaped.push(found.pid);
    }
    rmSync(path, { force: true });
  }
  return reaped;
}

/** Signals a process group, or the process where it leads none. Nobody there is no error. */
export function killGroup(pid: number, signal: NodeJS.Signals): void {
  for (const target of [-pid, pid]) {
    try {
      process.kill(target, signal);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}
