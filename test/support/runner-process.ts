/** A runner process with this test as its daemon. */
import { join } from "node:path";
import { type Config, handDown } from "../../daemon/config.ts";
import {
  FromRunner,
  type Lease,
  type RunnerArguments,
  runnerArguments,
  type ToRunner,
} from "../../daemon/runner/protocol.ts";
import type { JobId } from "../../daemon/wire.ts";

type Kind = FromRunner["type"];
type Message<K extends Kind> = Extract<FromRunner, { type: K }>;

export interface RunnerUnderTest extends AsyncDisposable {
  readonly messages: readonly FromRunner[];
  readonly exited: Promise<number>;
  /** Bytes that came over the heartbeat pipe are counted by whoever reads this descriptor. */
  readonly heartbeat: number;
  send(message: ToRunner): void;
  /** The first message of a kind that fits, now or later. */
  next<K extends Kind>(kind: K, fits?: (message: Message<K>) => boolean): Promise<Message<K>>;
  kill(signal: NodeJS.Signals): void;
}

export const leaseOf = (n: number): Lease => ({
  job: `job_${String(n).padStart(16, "0")}` as JobId,
  attempt: 1,
  token: `token-${n}`,
});

export async function startRunner(config: Config, args: Partial<RunnerArguments> = {}): Promise<RunnerUnderTest> {
  const messages: FromRunner[] = [];
  const waiting = new Set<() => void>();
  const program = join(import.meta.dir, "../../daemon/runner/main.ts");
  const child = Bun.spawn(
    [
      process.execPath,
      "--no-install",
      program,
      ...runnerArguments({ role: "worker", device: "cpu", plugin: null, without: new Map(), ...args }),
    ],
    {
      stdio: ["ignore", "ignore", "inherit", "pipe"],
      serialization: "advanced",
      env: {
        PATH: process.env["PATH"] ?? "",
        ...handDown(config, { trusted: args.plugin == null, plugin: args.plugin ?? null }),
      },
      ipc(message) {
        messages.push(FromRunner.parse(message));
        for (const look of waiting) look();
      },
    },
  );
  const next: RunnerUnderTest["next"] = (kind, fits = () => true) =>
    new Promise((done, fail) => {
      const look = (): void => {
        const found = messages.find(
          (each): each is Message<typeof kind> => each.type === kind && fits(each as Message<typeof kind>),
        );
        if (found === undefined) return;
        waiting.delete(look);
        done(found);
      };
      waiting.add(look);
      look();
      child.exited.then(
        (code) => waiting.has(look) && fail(new Error(`the runner ended with ${code} before it said ${kind}`)),
      );
    });
  const runner: RunnerUnderTest = {
    messages,
    exited: child.exited,
    heartbeat: child.stdio[3] as unknown as number,
    send: (message) => child.send(message),
    next,
    kill: (signal) => child.kill(signal),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
  await next("ready");
  return runner;
}
