/** The daemon as users run it, in a home of its own: real plugins, real runners, and processes that can be killed. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Client, createClient } from "../../daemon/client.ts";
import { findFfmpeg } from "../../daemon/media/ffmpeg.ts";
import { eventually } from "./daemon.ts";

const MAIN = join(import.meta.dir, "../../daemon/main.ts");

export class RealDaemon implements AsyncDisposable {
  readonly home: string;
  readonly client: Client;
  readonly #env: Readonly<Record<string, string | undefined>>;
  #process: Bun.Subprocess<"ignore", "pipe", "inherit"> | null = null;
  /** What it said when it was ready. */
  addresses: readonly string[] = [];

  private constructor(env: Readonly<Record<string, string>>) {
    this.home = mkdtempSync(join(tmpdir(), "waver-real-"));
    this.client = createClient({ home: this.home });
    this.#env = {
      ...{ PATH: process.env["PATH"], HOME: process.env["HOME"], XDG_CONFIG_HOME: this.home },
      ...{ WAVER_CACHE: join(this.home, "cache"), WAVER_FFMPEG: findFfmpeg(), WAVER_WORKERS: "1", WAVER_THREADS: "1" },
      ...{ OMP_WAIT_POLICY: "PASSIVE" },
      ...env,
    };
  }

  static async start(env: Readonly<Record<string, string>> = {}): Promise<RealDaemon> {
    const daemon = new RealDaemon(env);
    await daemon.start();
    return daemon;
  }

  async start(): Promise<void> {
    this.#process = Bun.spawn([process.execPath, "--no-install", MAIN, "--home", this.home], {
      cwd: this.home,
      env: { ...this.#env },
      stdio: ["ignore", "pipe", "inherit"],
    });
    const { value } = await this.#process.stdout.getReader().read();
    const said = JSON.parse(new TextDecoder().decode(value)) as { ready: boolean; addresses: string[] };
    if (!said.ready) throw new Error(JSON.stringify(said));
    this.addresses = said.addresses;
  }

  /** `kill -9` of the daemon; what it ran is left to the next one. */
  async kill(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.exited;
  }

  /** `kill -9` of the runner of the device; false when there is none to kill. */
  async killRunner(): Promise<boolean> {
    const pid = (await this.client.status()).runners[0]?.pid ?? null;
    if (pid === null) return false;
    try {
      process.kill(pid, "SIGKILL");
      return true;
    } catch {
      return false; // it ended by itself in the meantime
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process?.kill("SIGTERM");
    await this.#process?.exited;
    await eventually(async () => {
      rmSync(this.home, { recursive: true, force: true });
      return true;
    });
  }
}
