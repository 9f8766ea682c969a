/** The Python child that runs the reference: one JSON command a line in, one answer a line out. */
import { existsSync } from "node:fs";
import { join } from "node:path";

const SETUP =
  "make a Python environment with `pip install torch diffusers transformers safetensors` and name its interpreter in WAVER_BENCH_PYTHON";

export class Peer implements AsyncDisposable {
  readonly #child: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly #lines: AsyncIterator<string>;
  versions: Readonly<Record<string, string>> = {};

  private constructor(python: string, threads: number) {
    this.#child = Bun.spawn([python, join(import.meta.dir, "reference.py")], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
      // no thread of the waiting side may spin on the other's cores
      env: { ...process.env, OMP_NUM_THREADS: String(threads), OMP_WAIT_POLICY: "PASSIVE", HF_HUB_OFFLINE: "1" },
    });
    this.#lines = lines(this.#child.stdout);
  }

  static async start(threads: number, clock: "wall" | "cpu"): Promise<Peer> {
    const python = process.env.WAVER_BENCH_PYTHON;
    if (python === undefined) throw new Error(`the reference is not at hand: ${SETUP}`);
    if (!existsSync(python)) throw new Error(`WAVER_BENCH_PYTHON=${python} is not there: ${SETUP}`);
    const peer = new Peer(python, threads);
    const { versions } = (await peer.ask({ do: "start", threads, clock })) as { versions: Record<string, string> };
    peer.versions = versions;
    return peer;
  }

  async ask(command: { readonly do: string; readonly [key: string]: unknown }): Promise<unknown> {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    this.#child.stdin.flush();
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error(`the reference ended during "${command.do}"; ${SETUP}`);
    return JSON.parse(value);
  }

  /** Seconds of one repetition over there. */
  async seconds(what: string): Promise<number> {
    return ((await this.ask({ do: "run", what })) as { seconds: number }).seconds;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin.end();
    await this.#child.exited;
  }
}

async function* lines(source: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of source) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
}
