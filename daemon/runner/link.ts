/** This process's line to the daemon: messages out, and the answers to what was asked. */
import { type ErrorBody, type JobOutput, WaverError } from "../../plugins/index.ts";
import type { FromRunner, Lease, ToRunner } from "./protocol.ts";

type Answer = Extract<ToRunner, { type: "used" | "submitted" }>;

interface Question {
  readonly done: (value: unknown) => void;
  readonly fail: (error: Error) => void;
}

export interface Link {
  send(message: FromRunner): void;
  /** Runs a portable provider in another process. */
  use(
    request: { lease: Lease; hook: string; id: string; options: Record<string, unknown>; input: unknown },
    signal: AbortSignal,
  ): Promise<unknown>;
  /** Runs a child job to its end. */
  submit(
    request: { lease: Lease; operation: string; input: Record<string, unknown> },
    signal: AbortSignal,
  ): Promise<JobOutput>;
}

export class DaemonLink implements Link {
  readonly #post: (message: FromRunner) => void;
  readonly #open = new Map<string, Question>();

  constructor(post: (message: FromRunner) => void) {
    this.#post = post;
  }

  send(message: FromRunner): void {
    this.#post(message);
  }

  use(request: Parameters<Link["use"]>[0], signal: AbortSignal): Promise<unknown> {
    return this.#ask((call) => ({ type: "use", call, ...request }), signal);
  }

  submit(request: Parameters<Link["submit"]>[0], signal: AbortSignal): Promise<JobOutput> {
    return this.#ask((call) => ({ type: "submit", call, ...request }), signal) as Promise<JobOutput>;
  }

  /** Takes the daemon's answer to one question; one that nobody waits for any more is dropped. */
  answered(answer: Answer): void {
    const question = this.#open.get(answer.call);
    if (question === undefined) return;
    if (answer.error !== undefined) question.fail(WaverError.fromBody(answer.error as ErrorBody));
    else question.done(answer.type === "used" ? answer.output : answer.result);
  }

  #ask(message: (call: string) => FromRunner, signal: AbortSignal): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const call = crypto.randomUUID();
      const over = (): void => {
        this.#open.delete(call);
        signal.removeEventListener("abort", abandon);
      };
      const abandon = (): void => {
        over();
        this.#post({ type: "abandon", call });
        reject(signal.reason);
      };
      signal.addEventListener("abort", abandon, { once: true });
      const done = (value: unknown): void => {
        over();
        resolve(value);
      };
      const fail = (error: Error): void => {
        over();
        reject(error);
      };
      this.#open.set(call, { done, fail });
      this.#post(message(call));
    });
  }
}
