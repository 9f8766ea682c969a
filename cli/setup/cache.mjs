// The private cache: where it is, who may write to it, what the last set-up found.
import {
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { homedir, hostname } from "node:os";
import { dirname, join } from "node:path";
import { endChildren, megabytes, SetupError, say } from "./process.mjs";

/** WAVER_CACHE, else XDG's cache folder, else ~/.cache; cli/waver.mjs and native/build.ts follow the same order. */
export const cache = process.env.WAVER_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "waver");
/** Unfinished work: everything here is rubbish once no set-up holds the lock. */
export const unfinished = join(cache, "unfinished");
/** bun, and ffmpeg when PATH has none; the launcher and the hand-over put this folder on PATH. */
export const bin = join(cache, "bin");

const stampFile = join(cache, "setup.json");
const lockFile = join(cache, "setup.lock");
/** A holder touches its lock every 5 s; six missed touches mean that it is gone or hangs for good. */
const staleAfter = 30_000;

export function readStamp() {
  try {
    return JSON.parse(readFileSync(stampFile, "utf8"));
  } catch {
    return null; // absent or torn: set-up looks at everything again
  }
}

export function readText(file) {
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}

export function writeStamp(stamp) {
  writeAtomic(stampFile, `${JSON.stringify(stamp, null, 2)}\n`);
}

export function writeAtomic(file, text) {
  mkdirSync(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}`;
  writeFileSync(temporary, text);
  renameSync(temporary, file);
}

export function needSpace(bytes, what) {
  mkdirSync(cache, { recursive: true });
  const { bavail, bsize } = statfsSync(cache);
  if (bavail * bsize >= bytes) return;
  throw new SetupError(
    `${what} needs ${megabytes(bytes)} free for a while and ${cache} has ${megabytes(bavail * bsize)}: free some space, or set WAVER_CACHE to a folder on a larger disk.`,
  );
}

/** Runs `work` while no other set-up of this cache does; waits as long as the other one is alive. */
export async function locked(work) {
  const owner = JSON.stringify({ pid: process.pid, host: hostname() });
  let told = false;
  while (!tryLock(owner)) {
    if (!told) say(`another set-up is at work in ${cache}; waiting for it`);
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  const beat = setInterval(() => touch(lockFile), 5000);
  const release = () => {
    if (readText(lockFile) === owner) rmSync(lockFile, { force: true });
  };
  const interrupted = (signal) => {
    endChildren();
    rmSync(unfinished, { recursive: true, force: true });
    release();
    process.exit(signal === "SIGINT" ? 130 : 143);
  };
  process.once("SIGINT", interrupted).once("SIGTERM", interrupted);
  try {
    rmSync(unfinished, { recursive: true, force: true });
    mkdirSync(unfinished, { recursive: true });
    return await work();
  } finally {
    clearInterval(beat);
    process.off("SIGINT", interrupted).off("SIGTERM", interrupted);
    rmSync(unfinished, { recursive: true, force: true });
    release();
  }
}

function tryLock(owner) {
  try {
    mkdirSync(cache, { recursive: true });
    writeFileSync(lockFile, owner, { flag: "wx" });
    return true;
  } catch (error) {
    if (error.code !== "EEXIST") {
      throw new SetupError(`${cache} cannot be written (${error.code}): set WAVER_CACHE to a folder of your own.`);
    }
  }
  if (isStale()) {
    // Moved aside, not deleted: of two that see the same dead lock only one rename succeeds.
    const aside = `${lockFile}.${process.pid}`;
    try {
      renameSync(lockFile, aside);
    } catch {
      return false; // the other one was faster
    }
    rmSync(aside, { force: true });
  }
  return false;
}

function isStale() {
  const stat = statSync(lockFile, { throwIfNoEntry: false });
  if (!stat) return false;
  if (Date.now() - stat.mtimeMs > staleAfter) return true;
  try {
    const { pid, host } = JSON.parse(readFileSync(lockFile, "utf8"));
    if (host !== hostname()) return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return error.code === "ESRCH";
  }
}

function touch(file) {
  try {
    utimesSync(file, new Date(), new Date());
  } catch (error) {
    say(`the lock ${file} is gone (${error.code}); going on`);
  }
}
