/**
 * Messages between the daemon and the processes it supervises: one runner a device (loads native/) and the worker pool
 * (no engine). Carried by Bun's IPC with structured clone, so typed arrays cross without encoding.
 * Both kinds run the same program, `daemon/runner/main.ts`; `role` decides what it may load.
 */
import { z } from "zod";
import { ErrorBodySchema, JobId, Progress } from "../wire.ts";
import { RankArguments } from "./mesh.ts";

/** A lease: only messages that carry the job's present attempt and token are believed (fencing). */
export const Lease = z.object({ job: JobId, attempt: z.int(), token: z.string() });
export type Lease = z.output<typeof Lease>;

const Bag = z.record(z.string(), z.unknown());

/** Daemon -> process. */
export const ToRunner = z.discriminatedUnion("type", [
  z.object({ type: z.literal("run"), lease: Lease, operation: z.string(), input: Bag, workDir: z.string() }),
  z.object({ type: z.literal("cancel"), job: JobId }),
  /** Run a portable provider here for a job that runs elsewhere: `lease` is that job's, and what the provider asks for goes under it. */
  z.object({
    type: z.literal("call"),
    lease: Lease,
    call: z.string(),
    hook: z.string(),
    id: z.string(),
    options: Bag,
    input: z.unknown(),
    workDir: z.string(),
  }),
  z.object({ type: z.literal("cancelCall"), call: z.string() }),
  /** Answer to `use`. */
  z.object({
    type: z.literal("used"),
    call: z.string(),
    output: z.unknown().optional(),
    error: ErrorBodySchema.optional(),
  }),
  /** Answer to `submit`. */
  z.object({
    type: z.literal("submitted"),
    call: z.string(),
    result: z
      .object({
        jobId: z.string(),
        reused: z.boolean(),
        output: z.unknown(),
        seconds: z.number(),
        peakBytes: z.number(),
      })
      .optional(),
    error: ErrorBodySchema.optional(),
  }),
  /** Drop residents until at most `bytes` remain; idle ones first. */
  z.object({ type: z.literal("evict"), bytes: z.number() }),
  /** Where the ranks of a group meet. */
  z.object({ type: z.literal("join"), port: z.int(), secret: z.string() }),
  z.object({ type: z.literal("stop") }),
]);
export type ToRunner = z.output<typeof ToRunner>;

export const Resident = z.object({ hook: z.string(), id: z.string(), bytes: z.number(), idleSeconds: z.number() });

/** Process -> daemon. */
export const FromRunner = z.discriminatedUnion("type", [
  z.object({ type: z.literal("ready"), pid: z.int(), device: z.string(), facts: Bag }),
  /** Of a rank, before it is ready: where its store is (the leader), or that it listens (null). */
  z.object({ type: z.literal("meeting"), meeting: z.object({ port: z.int(), secret: z.string() }).nullable() }),
  /** Its last word: why it ends. */
  z.object({ type: z.literal("dying"), message: z.string(), hint: z.string().optional() }),
  z.object({ type: z.literal("progress"), lease: Lease, progress: Progress }),
  z.object({
    type: z.literal("log"),
    lease: Lease.nullable(),
    level: z.enum(["info", "warn", "error"]),
    event: z.string(),
    fields: Bag,
  }),
  z.object({ type: z.literal("done"), lease: Lease, output: z.unknown(), peakBytes: z.number() }),
  z.object({ type: z.literal("failed"), lease: Lease, error: ErrorBodySchema, peakBytes: z.number() }),
  /** A portable provider that must run elsewhere (other role, or a third party's in its own process). */
  z.object({
    type: z.literal("use"),
    lease: Lease,
    call: z.string(),
    hook: z.string(),
    id: z.string(),
    options: Bag,
    input: z.unknown(),
  }),
  z.object({ type: z.literal("abandon"), call: z.string() }),
  /** A child job. */
  z.object({ type: z.literal("submit"), lease: Lease, call: z.string(), operation: z.string(), input: Bag }),
  z.object({
    type: z.literal("called"),
    call: z.string(),
    output: z.unknown().optional(),
    error: ErrorBodySchema.optional(),
  }),
  z.object({ type: z.literal("resident"), items: z.array(Resident), rssBytes: z.number() }),
  /** Sent from the JavaScript side; the native heartbeat (a byte a second on fd 3) goes on while an operator runs. */
  z.object({ type: z.literal("beat"), rssBytes: z.number() }),
]);
export type FromRunner = z.output<typeof FromRunner>;

/** How the program is started; its configuration comes in the environment (`handDown`). */
export interface RunnerArguments {
  readonly role: "device" | "worker";
  readonly device: string;
  /** The one third-party plugin whose code this worker may import. */
  readonly plugin: string | null;
  /** Plugins that this process must not import, with the reason: they took an earlier one down. */
  readonly without: ReadonlyMap<string, string>;
  /** It is one of several that work on one job. */
  readonly ranks?: RankArguments;
}

export const runnerArguments = ({ role, device, plugin, without, ranks }: RunnerArguments): string[] => [
  "--role",
  role,
  "--device",
  device,
  ...(plugin === null ? [] : ["--plugin", plugin]),
  ...[...without].flatMap(([name, reason]) => ["--without", `${name}=${reason}`]),
  ...(ranks === undefined ? [] : ["--ranks", JSON.stringify(ranks)]),
];

export function parseRunnerArguments(argv: readonly string[]): RunnerArguments {
  const values = (flag: string): string[] =>
    argv.flatMap((word, i) => (word === flag && argv[i + 1] !== undefined ? [argv[i + 1] as string] : []));
  const [ranks] = values("--ranks");
  return {
    role: z.enum(["device", "worker"]).parse(values("--role")[0]),
    device: values("--device")[0] ?? "cpu",
    plugin: values("--plugin")[0] ?? null,
    // No name of a package holds "=".
    without: new Map(values("--without").map((each) => [each.split("=", 1)[0] as string, each.replace(/^[^=]*=/, "")])),
    ...(ranks === undefined ? {} : { ranks: RankArguments.parse(JSON.parse(ranks)) }),
  };
}
