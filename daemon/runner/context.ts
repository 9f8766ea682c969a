/** What operations and providers are given: the job's signal, progress, log, units, and other providers by hook. */
import { mkdir } from "node:fs/promises";
import {
  type AnyProvider,
  type Context,
  type HookName,
  hooks,
  type In,
  type JobOutput,
  type Log,
  type Media,
  type Out,
  type Store,
  type Traits,
  type Used,
  WaverError,
} from "../../plugins/index.ts";
import type { Config } from "../config.ts";
import type { Daemon } from "../operations/context.ts";
import { codeOf, HOST } from "../plugins/code.ts";
import { textDigest } from "../plugins/digest.ts";
import { didYouMean } from "../plugins/nearest.ts";
import type { RegisteredProvider, Registry } from "../plugins/registry.ts";
import type { Progress } from "../wire.ts";
import { blame, type Culprit } from "./blame.ts";
import type { PluginCode, Role } from "./code.ts";
import { takesFrames, toFacts } from "./frames.ts";
import { checkNeeds } from "./plan.ts";
import { ProgressMeter } from "./progress.ts";
import type { Held, Residency } from "./residency.ts";
import { CodeUsed, Units } from "./unit.ts";

/** Cancel and progress get a turn at least this often in work that calls `breathe` often enough. */
const BREATH_MS = 50;

/** What all contexts of one process share. */
export interface Host {
  readonly role: Role;
  readonly device: string;
  readonly config: Config;
  readonly code: PluginCode;
  readonly residency: Residency;
  registry(): Registry;
  /** Looks for plugins again: one may have been installed since this process started. */
  refresh(): Promise<Registry>;
  media(signal: AbortSignal): Media;
  store(): Store;
  /** Set for role `daemon` (and `inline`, which plays all roles). */
  readonly daemon: Daemon | null;
}

/** What one job, or one call for another process, has of its own. */
export interface Work {
  readonly signal: AbortSignal;
  readonly workDir: string;
  progress(progress: Progress): void;
  log(level: "info" | "warn" | "error", event: string, fields: Record<string, unknown>): void;
  /** Runs a portable provider in another process. */
  use(
    hook: HookName,
    id: string,
    options: Record<string, unknown>,
    input: unknown,
    signal: AbortSignal,
  ): Promise<unknown>;
  submit(operation: string, input: Record<string, unknown>, signal: AbortSignal): Promise<JobOutput>;
}

/** A context and the end of it: `close` lets go of everything that was used through it. */
export interface OpenContext {
  readonly ctx: Context;
  close(): void;
}

/** `plugin`: whose operation it is that gets this context; null for the host's own. */
export function openContext(host: Host, work: Work, plugin: string | null = null): OpenContext {
  const meter = new ProgressMeter((progress) => work.progress(progress));
  const code = new CodeUsed((part) => codeOf(part, host.registry(), host.config));
  code.add(plugin ?? HOST);
  const units = new Units(work.workDir, code);
  const held = new Set<Held>();
  const ctx = new JobContext({
    host,
    work,
    meter,
    units,
    code,
    held,
    signal: work.signal,
    media: host.media(work.signal),
    culprit: null,
  });
  return {
    ctx,
    close() {
      meter.flush();
      for (const each of held) each.release();
      held.clear();
    },
  };
}

interface Parts {
  readonly host: Host;
  readonly work: Work;
  readonly meter: ProgressMeter;
  readonly units: Units;
  /** What the results of this job come from. */
  readonly code: CodeUsed;
  /** What was used through this context and is not let go of yet. */
  readonly held: Set<Held>;
  readonly signal: AbortSignal;
  /** One a job: it remembers what it has probed. */
  readonly media: Media;
  /** The provider this context was made for; null for the operation's own. */
  readonly culprit: Culprit | null;
}

/** Everything is a property of its own, so that a provider may spread a context and change a part. */
class JobContext implements Context {
  readonly #parts: Parts;
  #breathedAt = performance.now();
  readonly signal: AbortSignal;
  readonly device: string;
  readonly workDir: string;
  readonly media: Media;
  readonly store: Store;
  readonly daemon: Daemon | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.signal = parts.signal;
    this.device = parts.host.device;
    this.workDir = parts.work.workDir;
    this.media = parts.media;
    this.store = parts.host.store();
    this.daemon = parts.host.daemon ?? undefined;
  }

  readonly log: Log = (event, fields = {}) => {
    const { level, ...rest } = fields;
    const { culprit, work } = this.#parts;
    work.log(level === "warn" || level === "error" ? level : "info", event, { ...rest, ...culprit });
  };

  readonly progress = (
    done: number,
    total: number,
    stage = "work",
    detail?: Readonly<Record<string, unknown>>,
  ): void => {
    this.#parts.meter.report(done, total, stage, detail);
  };

  readonly breathe = async (): Promise<void> => {
    this.#parts.signal.throwIfAborted();
    if (performance.now() - this.#breathedAt < BREATH_MS) return;
    await new Promise((resume) => setImmediate(resume));
    this.#breathedAt = performance.now();
    this.#parts.signal.throwIfAborted();
  };

  readonly unit: Context["unit"] = async (key, schema, work) => {
    this.#parts.signal.throwIfAborted();
    return this.#parts.units.once(key, schema, work);
  };

  readonly providers = <H extends HookName>(
    hook: H,
  ): readonly {
    readonly id: string;
    readonly traits: Traits<H>;
    readonly summary: string;
    readonly options: readonly string[];
  }[] =>
    this.#parts.host
      .registry()
      .providers(hook)
      .map(({ id, traits, summary, options }) => ({
        id,
        traits: traits as Traits<H>,
        summary,
        options: Object.keys(options.shape),
      }));

  readonly run = async (operation: string, input: Readonly<Record<string, unknown>>): Promise<JobOutput> => {
    this.#parts.signal.throwIfAborted();
    this.#parts.meter.flush();
    return this.#parts.work.submit(operation, { ...input }, this.#parts.signal);
  };

  readonly use = async <H extends HookName>(
    hook: H,
    id: string,
    options: Readonly<Record<string, unknown>> = {},
  ): Promise<Used<H>> => {
    const { host, signal } = this.#parts;
    signal.throwIfAborted();
    const found = await this.#find(hook, id);
    this.#parts.code.add(found.plugin);
    if (host.code.isLocal(found)) return this.#useHere(hook, found, options);
    if (!hooks[hook].portable)
      throw new WaverError(
        "needs_unmet",
        `${id} of ${hook} runs on the device and its value cannot leave it; this job runs elsewhere`,
        {
          hint: "an operation that uses it must run on the device",
        },
      );
    return this.#useElsewhere(hook, found, options);
  };

  async #find(hook: HookName, id: string): Promise<RegisteredProvider> {
    const { host } = this.#parts;
    const found = host.registry().provider(hook, id) ?? (await host.refresh()).provider(hook, id);
    if (found !== undefined) return found;
    const ids = host
      .registry()
      .providers(hook)
      .map((each) => each.id);
    throw new WaverError("no_provider", `no provider of ${hook} is named ${id}`, {
      hint: didYouMean(id, ids),
      data: { hook, id, known: ids },
    });
  }

  async #useHere<H extends HookName>(
    hook: H,
    found: RegisteredProvider,
    options: Readonly<Record<string, unknown>>,
  ): Promise<Used<H>> {
    const { host, held: mine } = this.#parts;
    const culprit: Culprit = { plugin: found.plugin, hook, id: found.id };
    try {
      const provider = await host.code.provider(host.registry(), found);
      const parsed = parseOptions(provider, options, culprit);
      checkNeeds(host.registry(), provider.needs, `${found.id} of ${hook}`);
      // Nothing to load, nothing to keep.
      const held: Held =
        provider.load === undefined
          ? { state: undefined, release: () => undefined }
          : await host.residency.acquire(this.#loading(provider, parsed, culprit), this.signal);
      mine.add(held);
      const ctx = this.#for(culprit, {});
      const call = async (input: In<H>): Promise<Out<H>> => {
        this.signal.throwIfAborted();
        try {
          return checkOutput(
            hook,
            await provider.run(checkInput(hook, input), { options: parsed, state: held.state, ctx }),
          );
        } catch (error) {
          throw blame(error, culprit);
        }
      };
      return disposable(call, () => {
        if (mine.delete(held)) held.release();
      });
    } catch (error) {
      throw blame(error, culprit);
    }
  }

  #loading(
    provider: AnyProvider,
    options: Record<string, unknown>,
    culprit: Culprit,
  ): Parameters<Residency["acquire"]>[0] {
    const { hook, id } = culprit;
    // What a load uses stays in use as long as what it loaded.
    const held = new Set<Held>();
    return {
      hook,
      id,
      key: `${hook} ${id} ${textDigest(JSON.stringify(options))}`,
      bytes: () => provider.bytes?.(options) ?? 0,
      load: async (signal) => provider.load?.(options, this.#for(culprit, { signal, held })),
      unloaded: () => {
        for (const each of held) each.release();
      },
    };
  }

  async #useElsewhere<H extends HookName>(
    hook: H,
    found: RegisteredProvider,
    options: Readonly<Record<string, unknown>>,
  ): Promise<Used<H>> {
    const { work } = this.#parts;
    const culprit: Culprit = { plugin: found.plugin, hook, id: found.id };
    const call = async (input: In<H>): Promise<Out<H>> => {
      this.signal.throwIfAborted();
      const crossing = takesFrames(hook)
        ? toFacts(input, (error) => this.log("unread_frames_failed", { level: "warn", reason: String(error) }))
        : input;
      return checkOutput(hook, await work.use(hook, found.id, { ...options }, crossing, this.signal));
    };
    return disposable(
      async (input: In<H>) =>
        call(input).catch((error: unknown) => {
          throw blame(error, culprit);
        }),
      () => undefined,
    );
  }

  #for(culprit: Culprit, own: Partial<Pick<Parts, "signal" | "held">>): JobContext {
    const media = own.signal === undefined ? this.#parts.media : this.#parts.host.media(own.signal);
    return new JobContext({ ...this.#parts, media, culprit, ...own });
  }
}

const disposable = <F extends (...args: never[]) => unknown>(call: F, dispose: () => void): F & Disposable =>
  Object.assign(call, { [Symbol.dispose]: dispose });

function parseOptions(
  provider: AnyProvider,
  options: Readonly<Record<string, unknown>>,
  { hook, id }: Culprit,
): Record<string, unknown> {
  // A pick is handed on whole: its id is not an option.
  const { id: _, ...given } = options;
  const known = Object.keys(provider.options.shape);
  const unknown = Object.keys(given).find((key) => !known.includes(key));
  if (unknown !== undefined)
    throw new WaverError("unknown_option", `${hook} ${id} has no option ${unknown}`, {
      hint: didYouMean(unknown, known),
    });
  const parsed = provider.options.safeParse(given);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new WaverError(
    "invalid_input",
    `${hook} ${id}: ${issue?.path.join(".") ?? "options"}: ${issue?.message ?? "invalid"}`,
  );
}

/** Values that cross processes are checked at every edge; values beside tensors by type only. */
function checkInput<H extends HookName>(hook: H, input: In<H>): In<H> {
  if (!hooks[hook].portable) return input;
  const parsed = hooks[hook].input.safeParse(input);
  if (!parsed.success)
    throw new WaverError(
      "invalid_input",
      `the input of ${hook} is wrong: ${parsed.error.issues[0]?.path.join(".") ?? ""} ${parsed.error.issues[0]?.message ?? ""}`,
    );
  return parsed.data as In<H>;
}

function checkOutput<H extends HookName>(hook: H, output: unknown): Out<H> {
  if (!hooks[hook].portable) return output as Out<H>;
  const parsed = hooks[hook].output.safeParse(output);
  if (!parsed.success)
    throw new WaverError(
      "plugin_failed",
      `it returned something else than ${hook} promises: ${parsed.error.issues[0]?.path.join(".") ?? ""} ${parsed.error.issues[0]?.message ?? ""}`,
    );
  return parsed.data as Out<H>;
}

/** Makes the folder of a job. */
export async function prepareWorkDir(workDir: string): Promise<void> {
  await mkdir(workDir, { recursive: true });
}
