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
import { outOfService } from "../plugins/quarantine.ts";
import type { RegisteredProvider, Registry } from "../plugins/registry.ts";
import type { Progress } from "../wire.ts";
import { blame, type Culprit, hung } from "./blame.ts";
import type { PluginCode, Role } from "./code.ts";
import { checkInput, checkOutput, parseOptions } from "./edges.ts";
import { takesFrames, toFacts, withPulse } from "./frames.ts";
import { checkNeeds } from "./plan.ts";
import { ProgressMeter } from "./progress.ts";
import { living, Pulse } from "./pulse.ts";
import type { Held, Residency } from "./residency.ts";
import { fileStamp } from "./stamp.ts";
import { CodeUsed, Units } from "./unit.ts";
import type { UsesLog } from "./uses.ts";

/** The device of tensors without data. */
const OUTLINED = "meta";

/** Cancel and progress get a turn at least this often in work that calls `breathe` often enough. */
const BREATH_MS = 50;

/** Our own code is known, and some of it waits for programs that take their time. */
const OUR_OWN = 10;

/** What all contexts of one process share. */
export interface Host {
  readonly role: Role;
  readonly device: string;
  readonly config: Config;
  /** Which third-party plugins are at work here. */
  readonly uses: UsesLog;
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
  /** Of what runs with this context itself, as opposed to the providers that it uses. */
  readonly pulse: Pulse;
  close(): void;
}

interface Whose {
  /** Whose operation it is that gets this context, null for the host's own. */
  readonly plugin?: string | null;
  /** The same if it is a third party's. */
  readonly foreign?: string | null;
  /** What others than this process do of what is used, by the operation and while a provider runs for it. */
  readonly spread?: Spread | undefined;
}

export function openContext(
  host: Host,
  work: Work,
  { plugin = null, foreign = null, spread }: Whose = {},
): OpenContext {
  const meter = new ProgressMeter((progress) => work.progress(progress));
  const code = new CodeUsed((part) => codeOf(part, host.registry(), host.config));
  code.add(plugin ?? HOST);
  const units = new Units(work.workDir, code);
  const held = new Set<Held>();
  const pulse = new Pulse(host.uses.turns(foreign));
  const ctx = new JobContext({
    host,
    work,
    pulse,
    meter,
    units,
    code,
    held,
    signal: work.signal,
    media: host.media(work.signal),
    culprit: null,
    spread,
  });
  return {
    ctx: spreading(ctx, spread),
    pulse,
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
  /** Of the provider or operation that has this context. */
  readonly pulse: Pulse;
  readonly meter: ProgressMeter;
  readonly units: Units;
  /** What the results of this job come from. */
  readonly code: CodeUsed;
  /** What was used through this context and is not let go of yet. */
  readonly held: Set<Held>;
  readonly signal: AbortSignal;
  /** One a job: it remembers what it has probed. */
  readonly media: Media;
  /** Another device than the host's. */
  readonly device?: string;
  /** The provider this context was made for; null for the operation's own. */
  readonly culprit: Culprit | null;
  readonly spread: Spread | undefined;
}

type Spread = (use: Context["use"]) => Context["use"];

const spreading = (ctx: Context, spread: Spread | undefined): Context =>
  spread === undefined ? ctx : { ...ctx, use: spread(ctx.use) };

/** Everything is a property of its own, so that a provider may spread a context and change a part. */
class JobContext implements Context {
  readonly #parts: Parts;
  #breathedAt = performance.now();
  readonly signal: AbortSignal;
  readonly device: string;
  readonly memoryBudget: number;
  readonly workDir: string;
  readonly media: Media;
  readonly store: Store;
  readonly daemon: Daemon | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.signal = parts.signal;
    this.device = parts.device ?? parts.host.device;
    this.memoryBudget = parts.host.config.memoryBudget;
    this.workDir = parts.work.workDir;
    this.media = living(parts.media, parts.pulse);
    this.store = living(parts.host.store(), parts.pulse);
    this.daemon = parts.host.daemon ?? undefined;
  }

  readonly log: Log = (event, fields = {}) => {
    const { level, ...rest } = fields;
    const { culprit, work, pulse } = this.#parts;
    pulse.touch();
    work.log(level === "warn" || level === "error" ? level : "info", event, { ...rest, ...culprit });
  };

  readonly progress = (
    done: number,
    total: number,
    stage = "work",
    detail?: Readonly<Record<string, unknown>>,
  ): void => {
    this.#parts.pulse.touch();
    this.#parts.meter.report(done, total, stage, detail);
  };

  readonly breathe = async (): Promise<void> => {
    this.#parts.pulse.touch();
    this.#parts.signal.throwIfAborted();
    if (performance.now() - this.#breathedAt < BREATH_MS) return;
    await new Promise((resume) => setImmediate(resume));
    this.#breathedAt = performance.now();
    this.#parts.signal.throwIfAborted();
  };

  readonly unit: Context["unit"] = async (key, schema, work) => {
    const { signal, pulse, units } = this.#parts;
    signal.throwIfAborted();
    pulse.touch();
    return units.once(key, schema, work).finally(() => pulse.touch());
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
    const { meter, pulse, work, signal } = this.#parts;
    meter.flush();
    return pulse.host(() => work.submit(operation, { ...input }, signal));
  };

  readonly use = async <H extends HookName>(
    hook: H,
    id: string,
    options: Readonly<Record<string, unknown>> = {},
  ): Promise<Used<H>> => {
    const { host, signal, pulse } = this.#parts;
    signal.throwIfAborted();
    const found = await pulse.host(() => this.#find(hook, id));
    this.#parts.code.add(found.plugin);
    if (host.code.isLocal(found)) return pulse.host(() => this.#useHere(hook, found, options));
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

  readonly outline = async <H extends HookName>(
    hook: H,
    id: string,
    options: Readonly<Record<string, unknown>> = {},
  ): Promise<Used<H>> => {
    const { host, signal } = this.#parts;
    signal.throwIfAborted();
    const found = await this.#find(hook, id);
    const provider = host.code.isLocal(found) ? await host.code.provider(host.registry(), found) : undefined;
    if (provider?.outlines !== true)
      throw new WaverError("needs_unmet", `${id} of ${hook} cannot be planned: it does not say what it takes`);
    return this.#useHere(hook, found, options, OUTLINED);
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
      hint: outOfService(host.registry()) ?? didYouMean(id, ids),
      data: { hook, id, known: ids },
    });
  }

  async #useHere<H extends HookName>(
    hook: H,
    found: RegisteredProvider,
    options: Readonly<Record<string, unknown>>,
    device?: string,
  ): Promise<Used<H>> {
    const { host, held: mine, pulse: caller } = this.#parts;
    const own = device === undefined ? {} : { device };
    const culprit: Culprit = { plugin: found.plugin, hook, id: found.id };
    const turns = (): Pulse => new Pulse(host.uses.turns(found.place.plugin));
    // A value beside the tensors runs its code whenever somebody calls it, and nobody here sees that.
    const use = host.uses.enter(hooks[hook].portable ? null : found.place.plugin);
    try {
      const fresh = turns();
      const patience = this.#patience(found);
      const provider = await fresh.watch(
        () => host.code.provider(host.registry(), found),
        patience,
        () => hung(culprit, patience),
      );
      const parsed = parseOptions(provider, options, culprit);
      checkNeeds(host.registry(), provider.needs, `${found.id} of ${hook}`);
      const limit = provider.patience?.(parsed) ?? patience;
      // Nothing to load, nothing to keep.
      const loaded: Held =
        provider.load === undefined
          ? { state: undefined, release: () => undefined }
          : await host.residency.acquire(
              this.#loading(provider, parsed, culprit, {
                limit,
                pulse: turns(),
                stamp: await fileStamp(parsed),
                ...own,
              }),
              this.signal,
            );
      const held: Held = {
        state: loaded.state,
        release: () => {
          loaded.release();
          use[Symbol.dispose]();
        },
      };
      mine.add(held);
      const pulse = turns();
      // Not so where it loads: that is kept beyond this job.
      const ctx = spreading(this.#for(culprit, { pulse, ...own }), this.#parts.spread);
      const call = async (input: In<H>): Promise<Out<H>> => {
        this.signal.throwIfAborted();
        const given = checkInput(hook, input);
        const work = (): Promise<Out<H>> =>
          provider.run(takesFrames(hook) ? withPulse(given, pulse) : given, {
            options: parsed,
            state: held.state,
            ctx,
          }) as Promise<Out<H>>;
        try {
          return checkOutput(hook, await caller.host(() => pulse.watch(work, limit, () => hung(culprit, limit))));
        } catch (error) {
          throw blame(error, culprit);
        }
      };
      return disposable(call, () => {
        if (mine.delete(held)) held.release();
      });
    } catch (error) {
      use[Symbol.dispose]();
      throw blame(error, culprit);
    }
  }

  #patience({ place }: RegisteredProvider): number {
    const { patience } = this.#parts.host.config;
    return place.plugin === null ? patience * OUR_OWN : patience;
  }

  #loading(
    provider: AnyProvider,
    options: Record<string, unknown>,
    culprit: Culprit,
    {
      limit,
      pulse,
      stamp,
      ...own
    }: { readonly limit: number; readonly pulse: Pulse; readonly stamp: string; readonly device?: string },
  ): Parameters<Residency["acquire"]>[0] {
    const { hook, id } = culprit;
    // What a load uses stays in use as long as what it loaded.
    const held = new Set<Held>();
    const origin = `${own.device ?? ""} ${hook} ${id} ${textDigest(JSON.stringify(options))}`;
    return {
      hook,
      id,
      origin,
      key: `${origin} ${textDigest(stamp)}`,
      // Shapes take no memory.
      isShape: own.device === OUTLINED,
      bytes: () => (own.device === OUTLINED ? 0 : (provider.bytes?.(options) ?? 0)),
      load: async (signal) => {
        const ctx = this.#for(culprit, { signal, held, pulse, ...own });
        return pulse.watch(
          async () => provider.load?.(options, ctx),
          limit,
          () => hung(culprit, limit),
        );
      },
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
    const { work, pulse } = this.#parts;
    const culprit: Culprit = { plugin: found.plugin, hook, id: found.id };
    const call = async (input: In<H>): Promise<Out<H>> => {
      this.signal.throwIfAborted();
      const crossing = takesFrames(hook)
        ? toFacts(input, (error) => this.log("unread_frames_failed", { level: "warn", reason: String(error) }))
        : input;
      return checkOutput(hook, await pulse.host(() => work.use(hook, found.id, { ...options }, crossing, this.signal)));
    };
    return disposable(
      async (input: In<H>) =>
        call(input).catch((error: unknown) => {
          throw blame(error, culprit);
        }),
      () => undefined,
    );
  }

  #for(culprit: Culprit, own: Pick<Parts, "pulse"> & Partial<Pick<Parts, "signal" | "held" | "device">>): JobContext {
    const media = own.signal === undefined ? this.#parts.media : this.#parts.host.media(own.signal);
    return new JobContext({ ...this.#parts, media, culprit, ...own });
  }
}

const disposable = <F extends (...args: never[]) => unknown>(call: F, dispose: () => void): F & Disposable =>
  Object.assign(call, { [Symbol.dispose]: dispose });

/** Makes the folder of a job. */
export async function prepareWorkDir(workDir: string): Promise<void> {
  await mkdir(workDir, { recursive: true });
}
