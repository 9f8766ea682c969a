/**
 * What travels between client and daemon: ids, job views, events and errors. The only shapes the CLI knows.
 */
import { z } from "zod";
import { ERROR_CODES, type ErrorCode } from "../plugins/errors.ts";

/** Raised when a change would confuse an older client. */
export const WIRE_VERSION = 1;

/** What a job may leave in its folder for those who watch it: a small PNG, replaced by the next. `detail.preview` of its progress says when. */
export const PREVIEW = "preview.png";

export const JobId = z
  .string()
  .regex(/^job_[0-9a-z]{16}$/, "a job id looks like job_ and 16 letters or digits")
  .brand<"JobId">();
export type JobId = z.output<typeof JobId>;

export const JobState = z.enum(["queued", "running", "done", "failed", "cancelled"]);
export type JobState = z.output<typeof JobState>;
export const isTerminal = (state: JobState): boolean => state === "done" || state === "failed" || state === "cancelled";

export const ErrorBodySchema = z.object({
  code: z.enum(Object.keys(ERROR_CODES) as [ErrorCode, ...ErrorCode[]]),
  message: z.string(),
  hint: z.string().optional(),
  data: z.record(z.string(), z.unknown()).optional(),
});

/** One progress report. `done` of `total` units of `stage`; rate in units a second; eta in seconds for this stage. */
export const Progress = z.object({
  stage: z.string(),
  done: z.number(),
  total: z.number(),
  rate: z.number().optional(),
  eta: z.number().optional(),
  detail: z.record(z.string(), z.unknown()).optional(),
});
export type Progress = z.output<typeof Progress>;

export const JobView = z.object({
  id: JobId,
  operation: z.string(),
  state: JobState,
  priority: z.int(),
  attempt: z.int(),
  createdAt: z.string(),
  startedAt: z.string().nullable(),
  finishedAt: z.string().nullable(),
  parent: JobId.nullable(),
  /** True when the result of earlier, equal work was returned. */
  reused: z.boolean(),
  input: z.record(z.string(), z.unknown()),
  output: z.unknown().optional(),
  error: ErrorBodySchema.optional(),
  progress: Progress.optional(),
  /** Highest resident memory of the process that ran it, in bytes; 0 before the end. */
  peakBytes: z.number(),
  seconds: z.number(),
});
export type JobView = z.output<typeof JobView>;

/** An event of a job's stream (SSE: id = seq, event = type). `seq` grows within a job and is never reused; of older progress only some is kept. */
export const JobEvent = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("state"),
    seq: z.int(),
    time: z.string(),
    job: JobId,
    state: JobState,
    attempt: z.int(),
    reused: z.boolean().optional(),
    error: ErrorBodySchema.optional(),
    output: z.unknown().optional(),
  }),
  z.object({ type: z.literal("progress"), seq: z.int(), time: z.string(), job: JobId, progress: Progress }),
  z.object({
    type: z.literal("log"),
    seq: z.int(),
    time: z.string(),
    job: JobId,
    level: z.enum(["info", "warn", "error"]),
    event: z.string(),
    fields: z.record(z.string(), z.unknown()),
  }),
]);
export type JobEvent = z.output<typeof JobEvent>;

/** A provider as clients see it. */
export const ProviderDoc = z.object({
  hook: z.string(),
  id: z.string(),
  plugin: z.string(),
  summary: z.string(),
  source: z.string().optional(),
  runs: z.enum(["device", "worker"]),
  traits: z.record(z.string(), z.unknown()),
  /** JSON Schema of the options. */
  options: z.record(z.string(), z.unknown()),
});
export type ProviderDoc = z.output<typeof ProviderDoc>;

/** An operation as clients see it: `input` is the JSON Schema of the whole body, slots included. */
export const OperationDoc = z.object({
  name: z.string(),
  kind: z.enum(["query", "job"]),
  summary: z.string(),
  plugin: z.string().nullable(),
  input: z.record(z.string(), z.unknown()),
  output: z.record(z.string(), z.unknown()),
  slots: z.record(
    z.string(),
    z.object({
      hook: z.string(),
      summary: z.string(),
      many: z.boolean(),
      optional: z.boolean(),
      default: z.unknown().optional(),
    }),
  ),
  examples: z.array(z.string()),
});
export type OperationDoc = z.output<typeof OperationDoc>;

/** GET /v1/operations. `pluginSet` is a hash: clients cache by it. */
export const OperationsDoc = z.object({
  wire: z.int(),
  version: z.string(),
  pluginSet: z.string(),
  operations: z.array(OperationDoc),
  providers: z.array(ProviderDoc),
});
export type OperationsDoc = z.output<typeof OperationsDoc>;

export const Status = z.object({
  version: z.string(),
  pid: z.int(),
  uptime: z.number(),
  home: z.string(),
  pluginSet: z.string(),
  jobs: z.record(JobState, z.int()),
  runners: z.array(
    z.object({
      device: z.string(),
      pid: z.int().nullable(),
      state: z.enum(["stopped", "starting", "idle", "busy", "restarting", "broken"]),
      restarts: z.int(),
      rssBytes: z.number(),
      resident: z.array(z.object({ hook: z.string(), id: z.string(), bytes: z.number(), idleSeconds: z.number() })),
      job: JobId.nullable(),
    }),
  ),
  workers: z.object({ size: z.int(), busy: z.int() }),
  listeners: z.array(z.string()),
});
export type Status = z.output<typeof Status>;

export const PluginDoc = z.object({
  name: z.string(),
  version: z.string(),
  origin: z.enum(["builtin", "installed"]),
  folder: z.string(),
  state: z.enum(["loaded", "skipped", "failed", "quarantined"]),
  /** Why it is not loaded, or empty. */
  reason: z.string(),
  provides: z.array(z.string()),
  operations: z.array(z.string()),
});
export type PluginDoc = z.output<typeof PluginDoc>;
