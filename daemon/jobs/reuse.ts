/** Finds out, before a job starts, whether its result exists already: same operation, options, content and plugins. */
import { toWaverError, WaverError } from "../../plugins/errors.ts";
import type { Config } from "../config.ts";
import type { DaemonLog } from "../log.ts";
import { codeOf, HOST } from "../plugins/code.ts";
import type { ParsedBody, RegisteredOperation, Registry } from "../plugins/registry.ts";
import { canonical, contentDigest, digestOf, reuseKey } from "./identity.ts";
import type { SchedulerEvent } from "./state.ts";
import type { JobRow, JobStore } from "./store.ts";

export interface ReuseOptions {
  readonly config: Config;
  readonly registry: () => Registry;
  readonly store: JobStore;
  readonly log: DaemonLog;
  readonly signal: AbortSignal;
  /** Whether an artefact or file that an earlier result names is still there. */
  exists(written: string): Promise<boolean>;
  found(event: Extract<SchedulerEvent, { type: "prepared" }>): void;
}

/** Jobs whose files are hashed at the same time. */
const AT_ONCE = 2;

export class Reuse {
  readonly #options: ReuseOptions;
  readonly #queue: JobRow[] = [];
  #busy = 0;

  constructor(options: ReuseOptions) {
    this.#options = options;
  }

  /** Reports `prepared` for this job, now or when its turn comes. */
  prepare(row: JobRow): void {
    this.#queue.push(row);
    if (this.#busy < AT_ONCE) void this.#work();
  }

  /** Whether everything that a result says it wrote is still there. */
  async isIntact(operation: RegisteredOperation, output: unknown): Promise<boolean> {
    const written = operation.declared?.writes?.(output as never) ?? [];
    for (const each of written) if (!(await this.#options.exists(each))) return false;
    return true;
  }

  /** Digests of what is known to do the work: the operation's own code, and the plugins that the request names. */
  code(operation: RegisteredOperation, parsed: ParsedBody): Record<string, string> {
    const { registry, config } = this.#options;
    const parts = [HOST, ...this.#named(operation, parsed)];
    return Object.fromEntries(parts.map((part) => [part, codeOf(part, registry(), config) ?? ""]));
  }

  async #work(): Promise<void> {
    this.#busy += 1;
    for (let row = this.#queue.shift(); row !== undefined; row = this.#queue.shift()) await this.#prepare(row);
    this.#busy -= 1;
  }

  async #prepare(row: JobRow): Promise<void> {
    const { store, registry, log, signal, found } = this.#options;
    try {
      const operation = registry().operations.get(row.operation);
      if (operation === undefined) throw new WaverError("unknown_operation", `there is no operation ${row.operation}`);
      const key = await this.#identity(operation, operation.parse(row.body));
      const looked = performance.now();
      const earlier = key === null ? null : await store.byReuseKey(key);
      const isGood = earlier !== null && (await this.isIntact(operation, earlier.output));
      found({
        type: "prepared",
        job: row.id,
        looked,
        reuseKey: key,
        reuse: isGood ? { output: earlier.output, peakBytes: earlier.peakBytes } : null,
      });
    } catch (error) {
      if (signal.aborted) return;
      // Reuse is a saving, not a duty: the job runs, and says itself what is wrong with its files.
      log("warn", "identity_unknown", { jobId: row.id, reason: toWaverError(error).message });
      found({ type: "prepared", job: row.id, looked: performance.now(), reuseKey: null, reuse: null });
    }
  }

  async #identity(operation: RegisteredOperation, parsed: ParsedBody): Promise<string | null> {
    const files = operation.declared?.reads?.(parsed.input as never) ?? null;
    if (files === null) return null;
    const { store, signal } = this.#options;
    const content: string[] = [];
    for (const path of files) content.push(await contentDigest(path, store, signal));
    return reuseKey({
      operation: operation.name,
      body: parsed.body,
      content,
      plugins: this.#plugins(operation, parsed),
    });
  }

  /**
   * What does the work: code and configuration of the plugins that the request names, by digest. Others may be found by
   * trait when the job runs, so versions of the host and of all built-in plugins count too; a third party's plugin that
   * is not named cannot change what an operation of ours does.
   */
  #plugins(operation: RegisteredOperation, parsed: ParsedBody): Record<string, string> {
    const { registry, config } = this.#options;
    const { loaded } = registry();
    const found: Record<string, string> = { "": registry().docs().version };
    for (const { name, version, origin } of loaded.values()) if (origin === "builtin") found[name] = version;
    const endpoint = canonical([config.endpoint?.url ?? null, config.endpoint?.model ?? null]);
    for (const name of this.#named(operation, parsed))
      found[name] = digestOf(loaded.get(name)?.digest ?? "", canonical(config.plugin[name] ?? {}), endpoint);
    return found;
  }

  #named(operation: RegisteredOperation, parsed: ParsedBody): Set<string> {
    const names = new Set(operation.plugin === null ? [] : [operation.plugin]);
    for (const [slot, { hook }] of Object.entries(operation.slots))
      for (const pick of [parsed.picks[slot]].flat())
        if (pick !== null && typeof pick === "object" && "id" in pick) {
          const provider = this.#options.registry().provider(hook, String(pick.id));
          if (provider !== undefined) names.add(provider.plugin);
        }
    return names;
  }
}
