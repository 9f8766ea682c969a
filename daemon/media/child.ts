/**
 * A short-lived child that touches media: bounded in CPU time, address space, open files and what it may write, without
 * a network where the kernel allows that, with a scrubbed environment, killed on abort. What it writes to stderr is kept for the verdict and never shown.
 */
import { closeSync } from "node:fs";
import type { Limits } from "./ffmpeg.ts";
import { sandbox } from "./sandbox.ts";
import { throwIfCancelled } from "./verdict.ts";

/** Tail of stderr that is kept: enough for the last messages, bounded for a decoder that floods. */
const STDERR_BYTES = 16 * 1024;
/** Address space. x264 at 1080p reserves about 1 GB; hostile headers ask for much more than 4. */
const ADDRESS_KB = 4 * 1024 * 1024;
const OPEN_FILES = 128;

/** `ulimit` in a shell that is then replaced: the limits bind the child alone. Arguments are never parsed by it. */
const LIMITED =
  'ulimit -t "$1" 2>/dev/null; ulimit -v "$2" 2>/dev/null; ulimit -n "$3" 2>/dev/null; ulimit -f "$4" 2>/dev/null; ulimit -c 0; shift 4; exec "$@"';

export interface ChildOptions {
  readonly limits: Limits;
  /** CPU seconds the child may use. */
  readonly cpuSeconds: number;
  /** Output pipes: 1 is stdout, more are file descriptors 3, 4, ... */
  readonly pipes: number;
  readonly stdin?: boolean;
  /** Whether it makes a file. A child that only reads cannot write a byte to the disk. */
  readonly writes?: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface Child extends AsyncDisposable {
  /** Next bytes of output pipe `index`, null at its end. */
  read(index: number): Promise<Uint8Array | null>;
  /** Throws away what is left in a pipe, so that the child is not held back by it. */
  drain(index: number): Promise<void>;
  readonly stdin: Bun.FileSink | null;
  /** Waits for the end. `killed` tells why this side ended it. */
  finished(): Promise<{ readonly code: number; readonly stderr: string; readonly killed: "abort" | "stall" | null }>;
  kill(why: "abort" | "stall" | "done"): void;
}

/** Number of the file descriptor that output pipe `index` has in the child. */
export const descriptor = (index: number): number => (index === 0 ? 1 : index + 2);

export function spawnChild(program: string, args: readonly string[], options: ChildOptions): Child {
  throwIfCancelled(options.signal);
  const extra = Array.from({ length: options.pipes - 1 }, () => "pipe" as const);
  const child = Bun.spawn(
    [
      ...sandbox().prefix,
      "/bin/sh",
      "-c",
      LIMITED,
      "media",
      String(Math.ceil(options.cpuSeconds)),
      String(ADDRESS_KB),
      String(OPEN_FILES),
      options.writes === true ? "unlimited" : "0",
      program,
      ...args,
    ],
    { stdio: [options.stdin ? "pipe" : "ignore", "pipe", "pipe", ...extra], env: scrubbed() },
  );
  const outputs = [
    new Output(child.stdout as ReadableStream<Uint8Array>, null),
    ...extra.map((_, index) => Output.of(child.stdio[index + 3] as number)),
  ];
  const stderr = tail(child.stderr as ReadableStream<Uint8Array>);
  let killed: "abort" | "stall" | "done" | null = null;
  const kill = (why: "abort" | "stall" | "done"): void => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    killed ??= why;
    child.kill("SIGKILL");
  };
  const onAbort = (): void => kill("abort");
  options.signal?.addEventListener("abort", onAbort, { once: true });
  const ended = child.exited.then(async (code) => {
    options.signal?.removeEventListener("abort", onAbort);
    return { code, stderr: await stderr, killed: killed === "done" ? null : killed };
  });
  return {
    read: (index) => (outputs[index] as Output).read(),
    drain: (index) => (outputs[index] as Output).drain(),
    stdin: options.stdin ? (child.stdin as Bun.FileSink) : null,
    finished: () => ended,
    kill,
    async [Symbol.asyncDispose]() {
      kill("done");
      await Promise.all([ended, ...outputs.map((output) => output.drain())]);
    },
  };
}

/** One output pipe. Bun hands extra pipes over as bare file descriptors and never closes them, so this does. */
class Output {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #open = true;

  constructor(
    stream: ReadableStream<Uint8Array>,
    private readonly fd: number | null,
  ) {
    this.#reader = stream.getReader();
  }

  static of(fd: number): Output {
    return new Output(Bun.file(fd).stream(), fd);
  }

  async read(): Promise<Uint8Array | null> {
    if (!this.#open) return null;
    const { value, done } = await this.#reader.read();
    if (!done) return value;
    if (this.#open && this.fd !== null) closeSync(this.fd);
    this.#open = false;
    return null;
  }

  async drain(): Promise<void> {
    while ((await this.read()) !== null);
  }
}

/** Only what a dynamic linker may need; no token, no home, no proxy. Messages in English, since they are classified. */
function scrubbed(): Record<string, string> {
  const { PATH, LD_LIBRARY_PATH } = process.env;
  return {
    LC_ALL: "C",
    ...(PATH === undefined ? {} : { PATH }),
    ...(LD_LIBRARY_PATH === undefined ? {} : { LD_LIBRARY_PATH }),
  };
}

async function tail(stream: ReadableStream<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) text = (text + decoder.decode(chunk, { stream: true })).slice(-STDERR_BYTES);
  return text;
}
