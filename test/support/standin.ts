/**
 * A stand-in for runner/main.ts: speaks the protocol, needs no engine, and misbehaves on request. What each operation
 * does is in `operations`; the daemon's side of them is in `standin-registry.ts`.
 */
import { existsSync, writeSync } from "node:fs";
import { appendFile, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type FromRunner, type Lease, parseRunnerArguments, ToRunner } from "../../daemon/runner/protocol.ts";
import { toWaverError, WaverError } from "../../plugins/errors.ts";

const { role, device } = parseRunnerArguments(process.argv.slice(2));
const send = (message: FromRunner): void => {
  if (process.connected) process.send?.(message);
};
const aborts = new Map<string, AbortController>();
const open = new Map<string, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();

type Input = Record<string, unknown>;
interface Job {
  readonly lease: Lease;
  readonly workDir: string;
  readonly signal: AbortSignal;
}
const number = (value: unknown): number => Number(value ?? 0);

const ask = (message: (call: string) => FromRunner): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const call = crypto.randomUUID();
    open.set(call, { resolve, reject });
    send(message(call));
  });

const operations: Record<string, (input: Input, job: Job) => Promise<unknown>> = {
  echo: async (input) => ({ said: input["text"], pid: process.pid }),
  ask: async (input) => ({ answer: `${input["text"]}?` }),
  /** `steps` units of `ms`, each kept in the job's folder: what an earlier attempt did is not done again. */
  steps: async (input, { lease, workDir, signal }) => {
    const done = (await readdir(workDir)).filter((name) => name.startsWith("unit-")).length;
    for (let step = done; step < number(input["steps"]); step += 1) {
      signal.throwIfAborted();
      await Bun.sleep(number(input["ms"]));
      await writeFile(join(workDir, `unit-${step}`), String(process.pid));
      if (typeof input["trace"] === "string") await appendFile(input["trace"], `${lease.job} ${step}\n`);
      send({ type: "progress", lease, progress: { stage: "step", done: step + 1, total: number(input["steps"]) } });
    }
    return { resumedFrom: done, attempt: lease.attempt };
  },
  die: async () => process.exit(9),
  /** Dies once, after some progress; the file remembers that it did. */
  workerSteps: (input, job) => (operations["steps"] as (typeof operations)[string])(input, job),
  dieOnce: async (_, { lease, workDir }) => {
    const mark = join(workDir, "died");
    if (existsSync(mark)) return { attempt: lease.attempt };
    await writeFile(mark, "");
    process.exit(9);
  },
  stop: async () => {
    process.kill(process.pid, "SIGSTOP");
    await Bun.sleep(600_000);
  },
  /** Takes no notice of a cancel. */
  stubborn: () => Bun.sleep(600_000),
  fail: async () => {
    throw new WaverError("media_unreadable", "the file is no video", { hint: "give it a video" });
  },
  copy: async (input) => {
    const text = await readFile(String(input["from"]), "utf8");
    await writeFile(String(input["to"]), text);
    return { to: input["to"], pid: process.pid, at: Date.now() };
  },
  parent: async (input, { lease }) => {
    const children = input["children"] as { operation: string; input: Input }[];
    const results = await Promise.all(
      children.map((child) =>
        ask((call) => ({ type: "submit", lease, call, operation: child.operation, input: child.input })),
      ),
    );
    if (input["dieAfter"] === true && lease.attempt === 1) process.exit(9);
    return { results };
  },
  useRemote: async (input, { lease }) => ({
    output: await ask((call) => ({
      type: "use",
      lease,
      call,
      hook: String(input["hook"]),
      id: String(input["id"]),
      options: {},
      input: input["value"],
    })),
  }),
  /** Says that it is done a second time, under a token of its own making. */
  liar: async (_, { lease }) => {
    send({ type: "done", lease: { ...lease, token: "0".repeat(32) }, output: { lie: true }, peakBytes: 0 });
    send({ type: "done", lease: { ...lease, attempt: lease.attempt + 1 }, output: { lie: true }, peakBytes: 0 });
    await Bun.sleep(50);
    return { lie: false };
  },
  talk: async (_, { lease }) => {
    for (let i = 0; i < 5; i += 1) send({ type: "log", lease, level: "info", event: "spoken", fields: { i } });
    return {};
  },
};

async function run({ lease, operation, input, workDir }: Extract<ToRunner, { type: "run" }>): Promise<void> {
  const abort = new AbortController();
  aborts.set(lease.job, abort);
  try {
    const work = operations[operation];
    if (work === undefined) throw new WaverError("unknown_operation", `no ${operation} here`);
    const gone = new Promise<never>((_, reject) => {
      if (operation !== "stubborn")
        abort.signal.addEventListener("abort", () => reject(abort.signal.reason), { once: true });
    });
    const output = await Promise.race([work(input, { lease, workDir, signal: abort.signal }), gone]);
    send({ type: "done", lease, output, peakBytes: 1_000 });
  } catch (error) {
    send({ type: "failed", lease, error: toWaverError(error).toBody() as never, peakBytes: 1_000 });
  } finally {
    aborts.delete(lease.job);
  }
}

process.on("message", (raw: unknown) => {
  const message = ToRunner.parse(raw);
  switch (message.type) {
    case "run":
      void run(message);
      return;
    case "cancel":
      aborts.get(message.job)?.abort(new WaverError("cancelled", "the job was cancelled"));
      return;
    case "call":
      if (message.id === "dead") process.exit(9);
      send({ type: "called", call: message.call, output: { value: message.input, role, pid: process.pid } });
      return;
    case "used":
    case "submitted": {
      const question = open.get(message.call);
      if (message.error !== undefined) question?.reject(WaverError.fromBody(message.error as never));
      else question?.resolve(message.type === "used" ? message.output : message.result);
      return;
    }
    case "stop":
      for (const abort of aborts.values()) abort.abort(new WaverError("cancelled", "the process is stopping"));
      setTimeout(() => process.exit(0), 20);
      return;
    case "cancelCall":
    case "evict":
      return;
  }
});
process.on("disconnect", () => process.exit(1));
setInterval(() => writeSync(3, "."), 300);
send({ type: "ready", pid: process.pid, device, facts: {} });
