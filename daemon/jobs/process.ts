/** One process of ours: spawned in its own group, watched for signs of life, killed as a group. */
import { closeSync } from "node:fs";
import type { Subprocess } from "bun";
import type { z } from "zod";
import { type ErrorBody, WaverError } from "../../plugins/errors.ts";
import type { DaemonLog } from "../log.ts";
import {
  FromRunner,
  type Lease,
  type Resident,
  type RunnerArguments,
  runnerArguments,
  type ToRunner,
} from "../runner/protocol.ts";
import type { Uses } from "../runner/uses.ts";
import type { JobId } from "../wire.ts";
import { killGroup } from "./pidfile.ts";
import type { RankGroup } from "./ranks.ts";

export interface ProcessProgram {
  /** Program and leading arguments, e.g. bun and the path of runner/main.ts. */
  readonly command: readonly string[];
  env(args: RunnerArguments): Record<string, string>;
  readonly cwd: string;
  /** Silence after which a process counts as hung. */
  readonly silenceMs: number;
  /** The same before it is ready: loading the engine from a cold disk takes a while. */
  readonly startMs: number;
  /** How the device's runner tells of third parties' code, and how long that may keep it from a turn of its event loop. */
  readonly foreign?: { uses(pid: number): Uses; readonly busyMs: number };
}

export interface ProcessListener {
  message(from: RunnerProcess, message: FromRunner): void;
  gone(from: RunnerProcess, exit: Exit): void;
}

export interface Exit {
  readonly reason: string;
  /** By something that it ran, as opposed to a signal from outside. */
  readonly byItself: boolean;
  /** Third parties' plugins at work in it (the device's runner only). */
  readonly uses: Uses;
  /** We asked it to stop. */
  readonly expected: boolean;
  readonly wasReady: boolean;
}

/** Bytes of a child's output that are logged in a second; the rest is dropped and counted. */
const OUTPUT_PER_SECOND = 32_768;

export class RunnerProcess {
  readonly args: RunnerArguments;
  readonly pid: number;
  readonly ready: Promise<void>;
  readonly exited: Promise<void>;
  readonly jobs = new Map<JobId, Lease>();
  /** Calls of portable providers that run here. */
  readonly calls = new Set<string>();
  /** Reserved for one job at a time (workers). */
  busy = false;
  isReady = false;
  isGone = false;
  isStopping = false;
  /** The ranks that it is one of. */
  group: RankGroup | null = null;
  /** Takes nothing new, and ends with what it has: something in it hangs. */
  isRetired = false;
  rssBytes = 0;
  resident: z.output<typeof Resident>[] = [];
  idleSince = performance.now();
  readonly #child: Subprocess;
  readonly #program: ProcessProgram;
  readonly #log: DaemonLog;
  readonly #listener: ProcessListener;
  #lastSign = performance.now();
  /** The same of the event loop: the heartbeat goes on while an operator, or an endless loop, holds it up. */
  #lastTurn = performance.now();
  #lastLook = performance.now();
  #cause: string | null = null;
  /** What it said of its end. */
  #lastWords: Pick<ErrorBody, "message" | "hint"> | null = null;
  #isHeldUp = false;

  constructor(program: ProcessProgram, args: RunnerArguments, listener: ProcessListener, log: DaemonLog) {
    this.args = args;
    this.#program = program;
    this.#listener = listener;
    this.#log = log;
    const ready = Promise.withResolvers<void>();
    const exited = Promise.withResolvers<void>();
    this.ready = ready.promise;
    this.exited = exited.promise;
    // A failed start is reported to whoever waits for it; nobody waiting is no fault.
    this.ready.catch(() => undefined);
    this.#child = Bun.spawn({
      cmd: [...program.command, ...runnerArguments(args)],
      cwd: program.cwd,
      env: program.env(args),
      // fd 3 carries the native heartbeat: a byte a second from a thread that no operator can block.
      stdio: ["ignore", "pipe", "pipe", "pipe"],
      serialization: "advanced",
      detached: true,
      ipc: (message) => this.#receive(message, ready.resolve),
      onExit: (_, code, signal) => {
        this.isGone = true;
        clearInterval(watch);
        // What it sent before it ended may come in the same turn.
        setImmediate(() => {
          const words = this.#cause === null ? this.#lastWords : null;
          const how = this.#cause ?? (signal !== null ? `signal ${signal}` : `exit code ${code}`);
          const reason = words === null ? how : `${how}: ${words.message}`;
          ready.reject(
            new WaverError(
              args.role === "device" ? "runner_failed" : "worker_failed",
              `the ${args.role} process ended before it was ready (${reason})`,
              { hint: words?.hint ?? "its last words are in the daemon's log" },
            ),
          );
          exited.resolve();
          const fromOutside = signal === "SIGKILL" || signal === "SIGTERM";
          listener.gone(this, {
            reason,
            byItself: this.#isHeldUp || (this.#cause === null && !fromOutside),
            uses: this.uses(),
            expected: this.isStopping,
            wasReady: this.isReady,
          });
        });
      },
    });
    this.pid = this.#child.pid;
    const watch = setInterval(() => this.#look(), 1_000);
    const { stdout, stderr } = this.#child;
    if (stdout instanceof ReadableStream) void this.#drain(stdout, "stdout");
    if (stderr instanceof ReadableStream) void this.#drain(stderr, "stderr");
    void this.#listen(this.#child.stdio[3]);
  }

  send(message: ToRunner): void {
    if (this.isGone) return;
    try {
      this.#child.send(message);
    } catch (error) {
      // Its channel closes a moment before its end is seen; that end is told to everybody who waits for it.
      this.#log("warn", "process_not_reached", { pid: this.pid, message: message.type, error });
    }
  }

  /** Third parties' plugins at work in it; only the device's runner has to say, others were started for one or for none. */
  uses(): Uses {
    return (this.args.role === "device" ? this.#program.foreign?.uses(this.pid) : undefined) ?? { now: [], ever: [] };
  }

  /** Asks it to end at its next unit boundary. */
  stop(): void {
    this.isStopping = true;
    this.send({ type: "stop" });
  }

  kill(reason: string): void {
    if (this.isGone) return;
    this.#cause ??= reason;
    killGroup(this.pid, "SIGKILL");
  }

  #receive(raw: unknown, ready: () => void): void {
    const parsed = FromRunner.safeParse(raw);
    if (!parsed.success) {
      this.#log("error", "process_spoke_nonsense", { pid: this.pid, issue: parsed.error.issues[0]?.message });
      this.kill("it sent a message that the protocol does not know");
      return;
    }
    const message = parsed.data;
    this.#lastSign = performance.now();
    this.#lastTurn = this.#lastSign;
    if (message.type === "ready") {
      this.isReady = true;
      ready();
    } else if (message.type === "beat") this.rssBytes = message.rssBytes;
    else if (message.type === "resident") {
      this.rssBytes = message.rssBytes;
      this.resident = message.items;
    } else if (message.type === "dying") this.#lastWords = message;
    this.#listener.message(this, message);
  }

  #look(): void {
    const now = performance.now();
    // This daemon itself was stopped or starved: what it did not hear in that time says nothing about the child.
    if (now - this.#lastLook > 3_000) {
      this.#lastSign = now;
      this.#lastTurn = now;
    }
    this.#lastLook = now;
    const limit = this.isReady ? this.#program.silenceMs : this.#program.startMs;
    if (now - this.#lastSign > limit) this.kill(`silent for ${Math.round(limit / 1000)} s`);
    this.#lookForLoops(now - this.#lastTurn);
  }

  /** Our own operators may take their time; a third party's endless loop would take the device for ever. */
  #lookForLoops(heldUpMs: number): void {
    const busyMs = this.#program.foreign?.busyMs ?? Number.POSITIVE_INFINITY;
    if (!this.isReady || heldUpMs <= busyMs) return;
    const { now } = this.uses();
    if (now.length === 0) return;
    this.#isHeldUp = true;
    this.kill(`held up for ${Math.round(heldUpMs / 1000)} s with code of ${now.join(", ")} at work`);
  }

  async #listen(fd: unknown): Promise<void> {
    if (typeof fd !== "number") return;
    try {
      for await (const _ of Bun.file(fd).stream()) this.#lastSign = performance.now();
    } catch (error) {
      this.#log("warn", "heartbeat_lost", { pid: this.pid, error });
    } finally {
      closeQuietly(fd);
    }
  }

  async #drain(stream: ReadableStream<Uint8Array>, name: string): Promise<void> {
    const decoder = new TextDecoder();
    let second = 0;
    let spent = 0;
    let dropped = 0;
    for await (const chunk of stream) {
      const now = Math.floor(performance.now() / 1000);
      if (now !== second) {
        if (dropped > 0) this.#log("warn", "process_output_dropped", { pid: this.pid, bytes: dropped });
        [second, spent, dropped] = [now, 0, 0];
      }
      const taken = Math.min(chunk.length, Math.max(0, OUTPUT_PER_SECOND - spent));
      spent += taken;
      dropped += chunk.length - taken;
      for (const line of decoder.decode(chunk.subarray(0, taken), { stream: true }).split("\n"))
        if (line.trim() !== "")
          this.#log("info", "process_output", { pid: this.pid, stream: name, line: line.slice(0, 2_000) });
    }
  }
}

/** Bun may have closed the descriptor with the stream already. */
function closeQuietly(fd: number): void {
  try {
    closeSync(fd);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EBADF") throw error;
  }
}
