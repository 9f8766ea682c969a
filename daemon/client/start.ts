/** Starts the daemon in the background when none answers. Two callers at once end with one daemon: the home's lock decides. */
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ErrorBody, WaverError } from "../../plugins/errors.ts";
import type { Status } from "../wire.ts";

export interface StartOptions {
  readonly home: string | null;
  /** daemon/main.ts */
  readonly main: string;
  probe(signal: AbortSignal): Promise<Status>;
  readonly signal?: AbortSignal | undefined;
}

const PROBE_MS = 2_000;
const START_MS = 60_000;

export async function startDetached({ home, main, probe, signal }: StartOptions): Promise<Status> {
  const asked = async (): Promise<Status | null> => {
    try {
      return await probe(AbortSignal.any([AbortSignal.timeout(PROBE_MS), ...(signal === undefined ? [] : [signal])]));
    } catch (error) {
      signal?.throwIfAborted();
      const isAbsent =
        error instanceof WaverError ? error.code === "daemon_unreachable" : (error as Error).name === "TimeoutError";
      if (isAbsent) return null;
      throw error;
    }
  };
  const running = await asked();
  if (running !== null) return running;

  const logFolder = home === null ? mkdtempSync(join(tmpdir(), "waver-start-")) : join(home, "log");
  try {
    mkdirSync(logFolder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new WaverError("forbidden", `the home folder ${home} cannot be made or written (${code})`, {
      cause,
      hint: "set WAVER_HOME, or --home, to a folder of your own",
    });
  }
  // One file a caller: what another one's daemon says is not ours to read.
  const output = join(logFolder, `start-${process.pid}.log`);
  const fd = openSync(output, "w", 0o600);
  const child = Bun.spawn([process.execPath, main, ...(home === null ? [] : ["--home", home])], {
    stdin: "ignore",
    stdout: fd,
    stderr: fd,
    detached: true,
  });
  closeSync(fd);
  child.unref();
  const end = performance.now() + START_MS;
  while (performance.now() < end) {
    const status = await asked();
    if (status !== null) {
      rmSync(output, { force: true });
      return status;
    }
    if (child.exitCode !== null || child.signalCode !== null) {
      const why = lastWords(output);
      // Somebody else's daemon has the home: it will answer in a moment.
      if (why?.code !== "conflict")
        throw new WaverError(
          "daemon_unreachable",
          `the daemon did not start: ${why?.message ?? "it ended without a word"}`,
          { hint: why?.hint ?? `see ${output}` },
        );
    }
    await Bun.sleep(25);
  }
  throw new WaverError("daemon_unreachable", `the daemon was not ready within ${START_MS / 1000} s`, {
    hint: `see ${join(logFolder, "daemon.log")} and ${output}`,
  });
}

/** The line that the daemon prints when it cannot start. */
function lastWords(file: string): ErrorBody | null {
  for (const line of readFileSync(file, "utf8").split("\n").reverse()) {
    if (!line.startsWith('{"ready":false')) continue;
    return (JSON.parse(line) as { error: ErrorBody }).error;
  }
  return null;
}
