/** A daemon over stand-in processes: inside the test's own process, or as a process that can be killed. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Client, createClient } from "../../daemon/client.ts";
import type { ConfigFile } from "../../daemon/config.ts";
import { type RunningDaemon, startDaemon } from "../../daemon/main.ts";
import { standinConfig, standinProgram, standinRegistry } from "./standin-registry.ts";

export interface TestDaemon extends AsyncDisposable {
  readonly home: string;
  readonly client: Client;
  readonly daemon: RunningDaemon;
}

export const temporaryHome = (): string => mkdtempSync(join(tmpdir(), "waver-test-"));

export async function testDaemon(
  options: { home?: string; set?: ConfigFile; silenceMs?: number; queueLimit?: number; graceMs?: number } = {},
): Promise<TestDaemon> {
  const home = options.home ?? temporaryHome();
  const daemon = await startDaemon({
    config: await standinConfig(home, options.set),
    load: async ({ quarantined }) => standinRegistry(quarantined),
    program: standinProgram(options.silenceMs),
    graceMs: options.graceMs ?? 1_000,
    ...(options.queueLimit === undefined ? {} : { queueLimit: options.queueLimit }),
  });
  return {
    home,
    client: createClient({ home }),
    daemon,
    [Symbol.asyncDispose]: async () => {
      await daemon.stop();
      if (options.home === undefined) rmSync(home, { recursive: true, force: true });
    },
  };
}

export interface DaemonProcess {
  readonly pid: number;
  readonly exited: Promise<number>;
  kill(signal: NodeJS.Signals): void;
}

/** Starts a daemon of its own process and waits until it is ready; throws what it says when it is not. */
export async function spawnDaemon(home: string): Promise<DaemonProcess> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "standin-registry.ts"), "--home", home], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of child.stdout) {
    text += decoder.decode(chunk, { stream: true });
    if (text.includes("\n")) break;
  }
  const line = JSON.parse(text.split("\n")[0] ?? "{}") as { ready: boolean; error?: { code: string } };
  if (!line.ready) throw Object.assign(new Error("not ready"), { code: line.error?.code });
  return { pid: child.pid, exited: child.exited, kill: (signal) => child.kill(signal) };
}

/** Polls until `look` gives something, at most `ms`. */
export async function eventually<T>(look: () => Promise<T | null | undefined | false>, ms = 10_000): Promise<T> {
  const end = performance.now() + ms;
  for (;;) {
    const seen = await look();
    if (seen !== null && seen !== undefined && seen !== false) return seen;
    if (performance.now() > end) throw new Error(`nothing within ${ms} ms`);
    await Bun.sleep(20);
  }
}
