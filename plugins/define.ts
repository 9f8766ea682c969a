/**
 * How a plugin is written: `definePlugin({ name, hookApi, config, provides: [provide("score", {...})], operations })`.
 * Declarations are pure data plus functions; importing a plugin's index.ts must not load tensors.
 */
import type { z } from "zod";
import type { HookName, In, Out, Traits } from "./hooks.ts";
import type { FrameBatch, FrameView, Source, Store } from "./types.ts";

/** Something a provider must find before it can run, matched by traits, never by a name in code. */
export interface Need {
  readonly hook: HookName;
  readonly where?: Readonly<Record<string, unknown>>;
  readonly optional?: boolean;
}

/** `event` in snake_case; `fields` are plain data. The job's id is added by the host. */
export type Log = (event: string, fields?: Readonly<Record<string, unknown>>) => void;

/** Decoding and encoding, in sandboxed children of the host. */
export interface Media {
  /** Facts of a file; throws media_missing, media_empty, media_unreadable or media_too_short. */
  probe(path: string, signal?: AbortSignal): Promise<Source>;
  /** Frames of a span in one view, in batches. */
  frames(
    path: string,
    view: FrameView,
    how?: { start?: number; end?: number; signal?: AbortSignal },
  ): AsyncIterable<FrameBatch>;
  /** Several views of one span from a single decode. Streams must be drained together. */
  fanOut(
    path: string,
    views: Readonly<Record<string, FrameView>>,
    how?: { start?: number; end?: number; signal?: AbortSignal },
  ): Readonly<Record<string, AsyncIterable<FrameBatch>>>;
  /** A still image as packed RGB, scaled to cover width x height when given. */
  image(path: string, size?: { width: number; height: number }): Promise<FrameBatch>;
  /**
   * H.264, yuv420p, faststart MP4 at `path`, published whole or not at all. `metadata` is stored as the file's comment. With
   * `minPsnr` the file decodes to the frames at so many decibels, larger and with colour for every pixel (yuv444p) if need be;
   * `psnr` says what was reached, which is less where H.264 in 8 bits holds no more.
   */
  writeVideo(
    path: string,
    frames: AsyncIterable<FrameBatch> | Iterable<FrameBatch>,
    how: {
      fps: number;
      metadata?: Readonly<Record<string, unknown>>;
      crf?: number;
      minPsnr?: number;
      signal?: AbortSignal;
    },
  ): Promise<{ readonly psnr?: number }>;
  /** The recipe that `writeVideo` stored, or null. */
  readMetadata(path: string): Promise<Record<string, unknown> | null>;
}

/**
 * A provider in use. Values that it returns and that live beside tensors (a codec, an encoder) belong to the host:
 * never dispose them. Disposing this (`using encode = await ctx.use(...)`) lets go of the provider, which may then be
 * evicted when memory is needed; otherwise the job holds it to its end.
 */
export type Used<H extends HookName> = ((input: In<H>) => Promise<Out<H>>) & Disposable;

/** What a provider or an operation is given to work with. */
export interface Context {
  readonly signal: AbortSignal;
  /** "cpu" or "cuda:0"; workers see "cpu" and have no engine. */
  readonly device: string;
  /** Bytes that all that is loaded on the device may take together. */
  readonly memoryBudget: number;
  readonly log: Log;
  readonly media: Media;
  readonly store: Store;
  /** A folder of this job alone. It survives restarts: an unfinished job finds in it what it left. */
  readonly workDir: string;
  /** Becomes a job event, with rate and ETA. `stage` names what is counted. */
  progress(done: number, total: number, stage?: string, detail?: Readonly<Record<string, unknown>>): void;
  /** Lets cancel and progress through; call between blocks and steps. Throws `cancelled`. */
  breathe(): Promise<void>;
  /**
   * One unit of work, done once: when an earlier attempt finished the unit with this key its published result is
   * returned, else `work` runs and its result (plain data) is published before it is returned.
   */
  unit<T>(key: string, schema: z.ZodType<T>, work: () => Promise<T>): Promise<T>;
  /** A provider, loaded and resident, ready to call. */
  use<H extends HookName>(hook: H, id: string, options?: Readonly<Record<string, unknown>>): Promise<Used<H>>;
  /**
   * The same on tensors that have shapes but no data (device "meta"): what it then computes takes no time and tells, through
   * the engine's `outline`, what a run would take. Throws needs_unmet for a provider that does not say `outlines`.
   */
  outline<H extends HookName>(hook: H, id: string, options?: Readonly<Record<string, unknown>>): Promise<Used<H>>;
  /** A hook's providers, to choose by trait; `options` are the names of those that each takes. */
  providers<H extends HookName>(
    hook: H,
  ): readonly {
    readonly id: string;
    readonly traits: Traits<H>;
    readonly summary: string;
    readonly options: readonly string[];
  }[];
  /** A child job: journalled, resumable, and reused when the same work was done before. */
  run(operation: string, input: Readonly<Record<string, unknown>>): Promise<JobOutput>;
}

/** Whether a provider says that it takes an option of that name. */
export const takes = (
  hook: HookName,
  id: string,
  option: string,
  ctx: { readonly providers: Context["providers"] },
): boolean =>
  ctx
    .providers(hook)
    .find((each) => each.id === id)
    ?.options.includes(option) === true;

export interface JobOutput {
  readonly jobId: string;
  /** True when an earlier result was returned and nothing was computed. */
  readonly reused: boolean;
  readonly output: unknown;
  readonly seconds: number;
  /** Highest resident memory of the process that did the work, in bytes. */
  readonly peakBytes: number;
}

/** What `load` returns: kept resident by the runner, disposed by it. */
export type State = AsyncDisposable | Disposable | undefined;

export interface Provider<H extends HookName, O extends z.ZodObject, S extends State = undefined> {
  readonly id: string;
  readonly summary: string;
  /** Paper and section, where there is one. */
  readonly source?: string;
  /** `device`: in the runner that owns the device. `worker`: in the worker pool, without the engine. */
  readonly runs: "device" | "worker";
  readonly options: O;
  readonly traits: Traits<H>;
  readonly needs?: readonly Need[];
  /** `load` may be called with the device "meta", for networks of shapes alone: no weights are read, nothing is drawn at random. */
  readonly outlines?: boolean;
  /** Bytes resident after load, asked before load. */
  bytes?(options: z.output<O>): number | Promise<number>;
  /**
   * Seconds that `load` or `run` may go without a sign of life (no use of `ctx`, no computing: it waits for a server,
   * say) before it is cut off as `plugin_timeout`. Default: the host's `patience`.
   */
  patience?(options: z.output<O>): number;
  /** Called once per distinct options. */
  load?(options: z.output<O>, ctx: Context): Promise<S>;
  run(input: In<H>, call: { readonly options: z.output<O>; readonly state: S; readonly ctx: Context }): Promise<Out<H>>;
}

// The two slots below hold providers and operations of every kind; `provide` and `defineOperation` check them first.
// biome-ignore lint/suspicious/noExplicitAny: existential types, checked where they are made
export type AnyProvider = Provider<any, any, any>;
// biome-ignore lint/suspicious/noExplicitAny: existential types, checked where they are made
export type AnyOperation = Operation<any, any>;

export interface Provided {
  readonly hook: HookName;
  readonly provider: AnyProvider;
}

export const provide = <H extends HookName, O extends z.ZodObject, S extends State = undefined>(
  hook: H,
  provider: Provider<H, O, S>,
): Provided => ({ hook, provider });

/** A slot of an operation: the request picks a provider of `hook` by id, with its options beside the id. */
export interface Slot {
  readonly hook: HookName;
  readonly summary: string;
  /** `many` for gather and chain hooks: a list of picks. */
  readonly many?: boolean;
  /** Picked when the request is silent. A slot without a default is required unless `optional`. */
  readonly default?: Readonly<Record<string, unknown>> | readonly Readonly<Record<string, unknown>>[];
  readonly optional?: boolean;
}

/** A pick as the operation receives it: the provider's id and its options. */
export type Pick = { readonly id: string } & Readonly<Record<string, unknown>>;
export type Picks = Readonly<Record<string, Pick | readonly Pick[] | undefined>>;

/** Processes that do one job together, on a device each (native/README.md, Several ranks). */
export interface Ranks {
  readonly count: number;
  /** Parts of them that each run whole passes. */
  readonly replicas: number;
  /** How the ranks of one pass share its sequence. */
  readonly attention: "auto" | "ulysses" | "ring";
  readonly ulysses?: number | undefined;
  /** Each keeps a part of every block's weights only. */
  readonly shardWeights: boolean;
}

export interface Operation<I extends z.ZodObject, O extends z.ZodType> {
  /** `query` answers directly; `job` is journalled and answered with an id. */
  readonly kind: "query" | "job";
  readonly summary: string;
  readonly runs: "device" | "worker" | "daemon";
  readonly input: I;
  readonly output: O;
  readonly slots: Readonly<Record<string, Slot>>;
  /**
   * Outside files that the result depends on, read before the job starts. With it, equal content and equal options
   * return the earlier result (`reused`). Absent, or null because only the job itself finds out: it always runs.
   */
  readonly reads?: (input: z.output<I>) => readonly string[] | null;
  /** Artefact and file paths in an output that must still exist for the result to be reused. */
  readonly writes?: (output: z.output<O>) => readonly string[];
  /** Several processes for this request instead of one; null: one. Networks of `family` then run on all of them. */
  readonly ranks?: (input: z.output<I>) => Ranks | null;
  /** Examples for help texts and the web form. */
  readonly examples?: readonly string[];
  /** As a provider's. */
  readonly patience?: (input: z.output<I>) => number;
  run(input: z.output<I>, picks: Picks, ctx: Context): Promise<z.output<O>>;
}

export const defineOperation = <I extends z.ZodObject, O extends z.ZodType>(
  operation: Operation<I, O>,
): Operation<I, O> => operation;

export interface Plugin<C extends z.ZodObject = z.ZodObject> {
  readonly name: string;
  readonly version: string;
  /** Range of HOOK_API the plugin was written for, e.g. "0.1". */
  readonly hookApi: string;
  readonly config: C;
  readonly provides: readonly Provided[];
  readonly operations?: Readonly<Record<string, AnyOperation>>;
  setup?(env: { readonly config: z.output<C>; readonly signal: AbortSignal }): Promise<AsyncDisposable | undefined>;
}

export const definePlugin = <C extends z.ZodObject>(plugin: Plugin<C>): Plugin<C> => plugin;
