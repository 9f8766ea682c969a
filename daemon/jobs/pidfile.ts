/**
 * Which processes are ours: a pid file holds the pid and the moment that process started, so that a pid that the
 * system gave to somebody else is never mistaken for one of ours.
 */
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
      if ((error as NodeJS.ErrnoException).code === "ENOENT" || (error as NodeJS.ErrnoException).code === "ESRCH") return null;
      throw error;
    }
    // The name in brackets may hold blanks: fields are counted from the last bracket (state is the first, start time the 20th).
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? null : (fields[19] ?? null);
  }
  const listed = Bun.spawnSync(["ps", "-o", "lstart=", "-p", String(pid)]).stdout.toString().trim();
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

/**
 * Makes this process the only daemon of a home. The lock is the kernel's: a listening socket would go with a crash but
 * its file stays, and a pid file alone can be taken over by two at once; creating a folder is atomic, so the taking
 * over itself is guarded by one.
 */
export function lockHome(runDir: string): Disposable {
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  const path = join(runDir, "daemon.json");
  const guard = join(runDir, "daemon.lock");
  using _ = guarded(guard);
  const holder = readPidFile(path);
  if (holder !== null && holder.pid !== process.pid && isAlive(holder))
    throw new WaverError("conflict", `a daemon (process ${holder.pid}) already serves this home`, {
      hint: "use it, stop it with `waver stop`, or give this one another --home",
      data: { pid: holder.pid },
    });
  writePidFile(path, process.pid);
  return {
    [Symbol.dispose]: () => {
      if (readPidFile(path)?.pid === process.pid) rmSync(path, { force: true });
    },
  };
}

/** Holds `folder` for the few milliseconds of a take-over. One that its maker left behind is removed. */
function guarded(folder: string): Disposable {
  for (let tries = 0; ; tries += 1) {
    try {
      mkdirSync(folder, { mode: 0o700 });
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    // Two seconds: a take-over takes milliseconds, so whoever made the folder died in it.
    if (tries >= 40) rmSync(folder, { recursive: true, force: true });
    else Bun.sleepSync(50);
  }
  return { [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
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
