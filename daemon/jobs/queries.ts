/** Questions: operations that are answered directly, by a process of their lane that has time, and are not journalled. */
import { WaverError } from "../../plugins/errors.ts";
import type { DaemonLog } from "../log.ts";
import type { RegisteredOperation } from "../plugins/registry.ts";
import type { Lease } from "../runner/protocol.ts";
import type { JobId } from "../wire.ts";
import { laneOfPlace } from "./calls.ts";
import { alone, type Dispatch, type InDaemon } from "./dispatch.ts";
import type { WorkFolders } from "./folders.ts";
import { clock } from "./loop.ts";
import { DAEMON_LANE, type Fleet } from "./supervise.ts";

/** Longest that a query may take before it is cut off: it is a question, not work. */
const QUERY_MS = 120_000;

interface QueriesOptions {
  readonly fleet: Fleet;
  readonly dispatch: Dispatch;
  readonly folders: WorkFolders;
  readonly inDaemon: InDaemon;
  readonly log: DaemonLog;
}

export class Queries {
  readonly #options: QueriesOptions;

  constructor(options: QueriesOptions) {
    this.#options = options;
  }

  /** `id` stands in the place of a job's while the question lives. */
  async ask(operation: RegisteredOperation, id: JobId, body: unknown, signal: AbortSignal): Promise<unknown> {
    const parsed = operation.parse(body);
    const folder = `query_${id}`;
    const late = AbortSignal.timeout(QUERY_MS);
    try {
      return await this.#asked(operation, parsed.body, id, folder, AbortSignal.any([signal, late]));
    } catch (error) {
      if (!late.aborted) throw error;
      throw new WaverError("plugin_timeout", `${operation.name} did not answer within ${QUERY_MS / 1000} s`, {
        cause: error,
      });
    } finally {
      await this.#options.folders.remove(folder);
    }
  }

  async #asked(
    operation: RegisteredOperation,
    body: Readonly<Record<string, unknown>>,
    id: JobId,
    folder: string,
    signal: AbortSignal,
  ): Promise<unknown> {
    const { fleet, dispatch, folders, inDaemon, log } = this.#options;
    const workDir = folders.open(folder);
    const lane = laneOfPlace(operation.place);
    if (lane === DAEMON_LANE)
      return inDaemon.execute(operation.name, body, {
        signal,
        workDir,
        progress: () => undefined,
        log,
        use: alone,
        submit: alone,
      });
    const process = await fleet.forCall(lane, signal);
    const lease: Lease = { job: id, attempt: 1, token: clock().token() };
    const answer = Promise.withResolvers<unknown>();
    const stop = (): void => {
      process.send({ type: "cancel", job: id });
      answer.reject(new WaverError("cancelled", "the request was cancelled"));
    };
    dispatch.queries.set(lease.token, {
      done: answer.resolve,
      fail: (error) => answer.reject(WaverError.fromBody(error)),
    });
    process.jobs.set(id, lease);
    signal.addEventListener("abort", stop, { once: true });
    try {
      process.send({ type: "run", lease, operation: operation.name, input: { ...body }, workDir });
      return await answer.promise;
    } finally {
      signal.removeEventListener("abort", stop);
      dispatch.queries.delete(lease.token);
      process.jobs.delete(id);
      fleet.release(process);
    }
  }
}
