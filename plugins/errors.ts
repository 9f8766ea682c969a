/**
 * The one error class of the system and the list of its codes.
 *
 * CLI and HTTP print the same body; a code never changes its meaning once released. Messages say what is wrong,
 * hints say what to do next. Nothing in a message names memory addresses or internals.
 */

/** Every code, with the HTTP status it maps to. The CLI's exit code follows from the status (see `exitCode`). */
export const ERROR_CODES = {
  // the request
  invalid_input: 422,
  unknown_option: 422,
  unknown_operation: 404,
  not_found: 404,
  method_not_allowed: 405,
  conflict: 409,
  too_large: 413,
  queue_full: 429,
  unauthorized: 401,
  forbidden: 403,
  unsupported_media_type: 415,
  // other servers
  unreachable: 502,
  // media
  media_missing: 404,
  media_empty: 422,
  media_unreadable: 422,
  media_too_short: 422,
  media_too_large: 422,
  // checkpoints and tensors
  checkpoint_missing: 404,
  checkpoint_truncated: 422,
  checkpoint_invalid: 422,
  checkpoint_mismatch: 422,
  shape_mismatch: 422,
  numeric_invalid: 500,
  out_of_memory: 507,
  // plugins and planning
  plugin_invalid: 422,
  plugin_incompatible: 422,
  plugin_conflict: 409,
  plugin_failed: 500,
  plugin_timeout: 504,
  no_provider: 422,
  needs_unmet: 422,
  // jobs and processes
  cancelled: 499,
  job_lost: 500,
  stale_lease: 409,
  crash_loop: 500,
  runner_failed: 500,
  rank_lost: 500,
  worker_failed: 500,
  daemon_unreachable: 503,
  version_mismatch: 409,
  disk_full: 507,
  // set-up
  engine_missing: 500,
  tool_missing: 500,
  internal: 500,
} as const satisfies Record<string, number>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface ErrorBody {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

/** A mistake or a failure that a person can act on. Broken invariants are `assert`, not this. */
export class WaverError extends Error {
  override readonly name = "WaverError";
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly data: Readonly<Record<string, unknown>> | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    more: { hint?: string; cause?: unknown; data?: Readonly<Record<string, unknown>> } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.code = code;
    this.hint = more.hint;
    this.data = more.data;
  }

  toBody(): ErrorBody {
    return {
      code: this.code,
      message: this.message,
      ...(this.hint === undefined ? {} : { hint: this.hint }),
      ...(this.data === undefined ? {} : { data: this.data }),
    };
  }

  static fromBody(body: ErrorBody): WaverError {
    return new WaverError(body.code, body.message, {
      ...(body.hint === undefined ? {} : { hint: body.hint }),
      ...(body.data === undefined ? {} : { data: body.data }),
    });
  }
}

/** Codes of errors thrown by native/, which imports nothing of ours, in the house's own words. */
const ENGINE_CODES: Readonly<Record<string, ErrorCode>> = {
  checkpoint_truncated: "checkpoint_truncated",
  checkpoint_invalid: "checkpoint_invalid",
  checkpoint_missing: "checkpoint_missing",
  checkpoint_unreadable: "checkpoint_missing",
  checkpoint_mismatch: "checkpoint_mismatch",
  tensor_shape: "shape_mismatch",
  native_missing: "engine_missing",
  out_of_memory: "out_of_memory",
  rank_lost: "rank_lost",
  ranks_unfit: "invalid_input",
  not_quantisable: "invalid_input",
};

/** What the system refused, in a person's words; `open` is either reading or writing. */
const DENIED: Readonly<Record<string, string>> = {
  scandir: "look into",
  mkdir: "make the folder",
  unlink: "remove",
  rmdir: "remove",
  rename: "replace",
  copyfile: "copy",
};

const syscallOf = (error: Error): string => (error as NodeJS.ErrnoException).syscall ?? "";

/** The name alone: answers tell no paths that the asker did not give. */
function lastPartOf(error: Error): string {
  const { dest, path } = error as NodeJS.ErrnoException & { dest?: string };
  const named = (dest ?? path)?.split("/").findLast((part) => part !== "");
  // What is written beside its place first has the place's name inside its own.
  return named?.replace(/^\.(.+?)\.\d+-[0-9a-f-]+\.tmp$/, "$1") ?? "what it needs";
}

/** Any thrown value as a WaverError: engine and system errors are translated, the rest becomes `internal`. */
export function toWaverError(error: unknown): WaverError {
  if (error instanceof WaverError) return error;
  if (error instanceof DOMException && error.name === "AbortError")
    return new WaverError("cancelled", "the job was cancelled");
  if (error instanceof Error) {
    const code = (error as { code?: unknown }).code;
    const hint = (error as { hint?: unknown }).hint;
    const more = { cause: error, ...(typeof hint === "string" ? { hint } : {}) };
    if (code === "ENOSPC" || code === "EDQUOT" || code === "SQLITE_FULL")
      return new WaverError("disk_full", "the disk is full", {
        ...more,
        hint: "free some space, then run the same command again: it goes on where it stopped",
      });
    if (code === "EACCES" || code === "EPERM" || code === "EROFS")
      return new WaverError(
        "forbidden",
        `this user may not ${DENIED[syscallOf(error)] ?? "use"} ${lastPartOf(error)}`,
        {
          ...more,
          hint: "check its permissions and those of its folder, or name another place",
        },
      );
    if (typeof code === "string" && code in ENGINE_CODES)
      return new WaverError(ENGINE_CODES[code] as ErrorCode, error.message, more);
    if (typeof code === "string" && code in ERROR_CODES) return new WaverError(code as ErrorCode, error.message, more);
    return new WaverError("internal", error.message, more);
  }
  return new WaverError("internal", String(error));
}

/** Exit codes of the CLI: 0 done, 1 failed, 2 the user's mistake, 130 cancelled. */
export function exitCode(code: ErrorCode): number {
  if (code === "cancelled") return 130;
  const status = ERROR_CODES[code];
  return status >= 400 && status < 499 ? 2 : 1;
}
