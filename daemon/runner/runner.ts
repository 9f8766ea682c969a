/** Runs operations and calls as the daemon asks, several at once, and reports each to its end. */
import { join } from "node:path";
import {
  type AnyOperation,
  type Context,
  type ErrorBody,
  type FrameView,
  type HookName,
  hooks,
  type Media,
  type Picks,
  type Store,
  toWaverError,
  WaverError,
} from "../../plugins/index.ts";
import type { Config } from "../config.ts";
import { createMedia } from "../media/index.ts";
import type { Daemon } from "../operations/context.ts";
import { didYouMean } from "../plugins/nearest.ts";
import { outOfService } from "../plugins/quarantine.ts";
import type { RegisteredOperation, Registry } from "../plugins/registry.ts";
import type { JobId, Progress } from "../wire.ts";
import { hung } from "./blame.ts";
import { PluginCode, type Role } from "./code.ts";
import { type Host, type OpenContext, openContext, prepareWorkDir, type Work } from "./context.ts";
import { fromFacts, takesFrames } from "./frames.ts";
import type { Link } from "./link.ts";
import { peakBytes, resetPeak } from "./memory.ts";
import type { Lease, ToRunner } from "./protocol.ts";
import type { Pulse } from "./pulse.ts";
import type { Ranks } from "./ranks.ts";
import { Residency } from "./residency.ts";
import { lazyStore } from "./store.ts";
import { UsesLog } from "./uses.ts";

export interface RunnerOptions {
  readonly role: Role;
  readonly device: string;
  /** The third-party plugin that this worker was started for. */
  readonly plugin: string | null;
  readonly config: Config;
  readonly registry: Registry;
  readonly link: Link;
  /** Where the daemon reads, after a crash, which third-party plugins were at work; null where it knows that anyway. */
  readonly usesFile?: string;
  /** Loads the registry again. */
  readonly reload: () => Promise<Registry>;
  /** For operations that run in the daemon: `execute` is all that is used of such a runner. */
  readonly daemon?: Daemon;
  /** This process leads others: denoisers of its jobs run on all of them. */
  readonly ranks?: Ranks | undefined;
}

type Run = Extract<ToRunner, { type: "run" }>;
type Call = Extract<ToRunner, { type: "call" }>;

export class Runner implements AsyncDisposable {
  readonly #options: RunnerOptions;
  readonly #host: Host;
  readonly #code: PluginCode;
  readonly #residency: Residency;
  /** Aborted when the process ends: what outlives jobs (plugins' set-up, the store) hangs on it. */
  readonly #life = new AbortController();
  readonly #jobs = new Map<string, AbortController>();
  readonly #calls = new Map<string, AbortController>();
  readonly #running = new Set<Promise<void>>();
  #registry: Registry;
  #store: Promise<Store> | null = null;

  constructor(options: RunnerOptions) {
    const { role, device, plugin, config } = options;
    this.#options = options;
    this.#registry = options.registry;
    this.#code = new PluginCode({ role, plugin, config, signal: this.#life.signal });
    this.#residency = new Residency({
      budget: config.memoryBudget,
      keepAliveMs: config.keepAlive * 1000,
      onChange: () => this.#reportResident(),
    });
    const store = lazyStore(() => this.#openStore());
    this.#host = {
      role,
      device,
      config,
      uses: new UsesLog(options.usesFile ?? null),
      code: this.#code,
      residency: this.#residency,
      registry: () => this.#current(),
      refresh: async () => (this.#registry = await options.reload()),
      media: (signal): Media => createMedia({ config: { ...config.media, cache: config.cache }, signal }),
      store: () => store,
      daemon: options.daemon ?? null,
    };
  }

  /** Jobs that run now. */
  get busy(): number {
    return this.#jobs.size;
  }

  /** Takes a `run` and sees it through: `done` or `failed` is sent exactly once. */
  run({ lease, operation, input, workDir }: Run): Promise<void> {
    return this.#track(async () => {
      if (this.#jobs.has(lease.job))
        return this.#fail(lease, new WaverError("conflict", `the job ${lease.job} runs here already`));
      const abort = new AbortController();
      this.#jobs.set(lease.job, abort);
      // The kernel keeps one peak a process: beside another job it cannot begin anew.
      if (this.#jobs.size === 1) resetPeak();
      try {
        const output = await this.execute(operation, input, this.#work(lease, workDir, abort.signal));
        this.#options.link.send({ type: "done", lease, output, peakBytes: peakBytes() });
      } catch (error) {
        // A cancelled job often dies of something that the cancel broke.
        this.#fail(lease, abort.signal.aborted ? toWaverError(abort.signal.reason) : toWaverError(error));
      } finally {
        this.#jobs.delete(lease.job);
      }
    });
  }

  /** Runs a provider for a job elsewhere; answers `called` exactly once. */
  call({ lease, call, hook, id, options, input, workDir }: Call): Promise<void> {
    return this.#track(async () => {
      const abort = new AbortController();
      this.#calls.set(call, abort);
      const work = this.#work(lease, workDir, abort.signal);
      // Only the job itself counts its work.
      const { ctx, close } = openContext(this.#host, { ...work, progress: () => undefined });
      try {
        const name = await this.#callable(hook, id);
        await prepareWorkDir(workDir);
        const provider = await ctx.use(name, id, options);
        const view = this.#current().provider(name, id)?.traits["view"] as FrameView | null | undefined;
        const local = takesFrames(name) ? fromFacts(input, view ?? null, ctx.media, abort.signal) : input;
        const output = await provider(local as never);
        this.#options.link.send({ type: "called", call, output });
      } catch (error) {
        this.#options.link.send({
          type: "called",
          call,
          error: bodyOf(abort.signal.aborted ? toWaverError(abort.signal.reason) : toWaverError(error)),
        });
      } finally {
        close();
        this.#calls.delete(call);
      }
    });
  }

  cancel(job: JobId): void {
    this.#jobs.get(job)?.abort(cancelled());
  }

  cancelCall(call: string): void {
    this.#calls.get(call)?.abort(cancelled());
  }

  async evict(bytes: number): Promise<void> {
    await this.#residency.evict(bytes);
  }

  /** One operation from body to output, in a context of its own. */
  async execute(operation: string, body: Readonly<Record<string, unknown>>, work: Work): Promise<unknown> {
    const found = await this.#operation(operation);
    const { plugin } = found.place;
    const declared = await this.#declared(found);
    const { input, picks } = found.parse(body);
    await prepareWorkDir(work.workDir);
    const leading = this.#options.ranks?.leading();
    const whose = { plugin: found.plugin, foreign: plugin, spread: leading?.spread };
    const { ctx, pulse, close } = openContext(this.#host, work, whose);
    try {
      // A third party's own schema may say more than its JSON Schema did. What waits for ever is a third party's, too.
      const output: unknown =
        plugin === null
          ? await declared.run(input, picks, ctx)
          : await this.#guarded(operation, plugin, declared, ownInput(operation, declared, input), picks, ctx, pulse);
      const checked = declared.output.safeParse(output);
      if (!checked.success)
        throw new WaverError(
          "internal",
          `${operation} returned something else than it promises: ${checked.error.issues[0]?.path.join(".") ?? ""} ${checked.error.issues[0]?.message ?? ""}`,
        );
      return checked.data;
    } finally {
      leading?.close();
      close();
    }
  }

  /** A context of no job, for a rank that follows another's. */
  open(): OpenContext {
    const refuse = (): Promise<never> =>
      Promise.reject(new WaverError("internal", "a rank that follows asks for nothing"));
    return openContext(this.#host, {
      signal: this.#life.signal,
      workDir: join(this.#options.config.home, "work"),
      progress: () => undefined,
      log: (level, event, fields) =>
        this.#options.link.send({
          type: "log",
          lease: null,
          level,
          event,
          fields: plain(fields) as Record<string, unknown>,
        }),
      use: refuse,
      submit: refuse,
    });
  }

  /** Aborts what runs, waits for it, and disposes residents and plugins in reverse. */
  async [Symbol.asyncDispose](): Promise<void> {
    const stopped = new WaverError("cancelled", "the process is stopping");
    for (const abort of [...this.#jobs.values(), ...this.#calls.values()]) abort.abort(stopped);
    await Promise.all(this.#running);
    await this.#residency[Symbol.asyncDispose]();
    await this.#code[Symbol.asyncDispose]();
    this.#life.abort(stopped);
  }

  async #declared(found: RegisteredOperation): Promise<AnyOperation> {
    using _ = this.#host.uses.enter(found.place.plugin);
    return await this.#code.operation(this.#current(), found);
  }

  #guarded(
    name: string,
    plugin: string,
    declared: AnyOperation,
    input: Record<string, unknown>,
    picks: Picks,
    ctx: Context,
    pulse: Pulse,
  ): Promise<unknown> {
    const seconds = declared.patience?.(input) ?? this.#options.config.patience;
    return pulse.watch(
      () => declared.run(input, picks, ctx),
      seconds,
      () => hung({ plugin, hook: "operation", id: name }, seconds),
    );
  }

  /** In the daemon the registry may be replaced under us. */
  #current(): Registry {
    return this.#options.daemon?.registry() ?? this.#registry;
  }

  async #operation(name: string): Promise<RegisteredOperation> {
    const found = this.#current().operations.get(name) ?? (await this.#host.refresh()).operations.get(name);
    if (found === undefined)
      throw new WaverError("unknown_operation", `there is no operation ${name}`, {
        hint: outOfService(this.#current()) ?? didYouMean(name, [...this.#current().operations.keys()]),
      });
    return found;
  }

  /** A call that would have to travel on from here would travel for ever. */
  async #callable(hook: string, id: string): Promise<HookName> {
    if (!(hook in hooks)) throw new WaverError("no_provider", `there is no hook ${hook}`);
    const name = hook as HookName;
    const found = this.#current().provider(name, id) ?? (await this.#host.refresh()).provider(name, id);
    if (found !== undefined && !this.#code.isLocal(found))
      throw new WaverError("internal", `${id} of ${hook} was called in a process that must not run it`);
    return name;
  }

  #work(lease: Lease, workDir: string, signal: AbortSignal): Work {
    const { link } = this.#options;
    return {
      signal,
      workDir,
      progress: (progress: Progress) => link.send({ type: "progress", lease, progress: plain(progress) as Progress }),
      log: (level, event, fields) =>
        link.send({ type: "log", lease, level, event, fields: plain(fields) as Record<string, unknown> }),
      use: (hook, id, options, input, until) => link.use({ lease, hook, id, options, input }, until),
      submit: (operation, input, until) => link.submit({ lease, operation, input }, until),
    };
  }

  #openStore(): Promise<Store> {
    this.#store ??= this.#loadStore();
    this.#store.catch(() => {
      this.#store = null;
    });
    return this.#store;
  }

  async #loadStore(): Promise<Store> {
    const { config, link } = this.#options;
    const { id, ...options } = config.storage;
    const refuse = (): Promise<never> =>
      Promise.reject(new WaverError("internal", "a store asked for work of its own"));
    const { ctx } = openContext(this.#host, {
      signal: this.#life.signal,
      workDir: join(config.home, "store"),
      progress: () => undefined,
      log: (level, event, fields) =>
        link.send({ type: "log", lease: null, level, event, fields: plain(fields) as Record<string, unknown> }),
      use: refuse,
      submit: refuse,
    });
    return (await ctx.use("storage", id, options))({});
  }

  #fail(lease: Lease, error: WaverError): void {
    this.#options.link.send({ type: "failed", lease, error: bodyOf(error), peakBytes: peakBytes() });
  }

  #reportResident(): void {
    this.#options.link.send({ type: "resident", items: this.#residency.items(), rssBytes: process.memoryUsage.rss() });
  }

  async #track(work: () => Promise<void>): Promise<void> {
    const running = work();
    this.#running.add(running);
    try {
      await running;
    } finally {
      this.#running.delete(running);
    }
  }
}

function ownInput(name: string, { input: schema }: AnyOperation, input: unknown): Record<string, unknown> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new WaverError("invalid_input", `${name}: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`);
}

export const cancelled = (): WaverError => new WaverError("cancelled", "the job was cancelled");

/** Only plain data leaves the process: what a plugin logs may hold anything. */
const plain = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (_, each) => (typeof each === "bigint" ? Number(each) : each)) ?? "null");

function bodyOf(error: WaverError): ErrorBody {
  const body = error.toBody();
  return body.data === undefined ? body : { ...body, data: plain(body.data) as Record<string, unknown> };
}
