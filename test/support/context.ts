/**
 * A Context in one process, for tests of providers and operations without a daemon: real media, a real store in a
 * temporary folder, units on disk, providers imported from the built-in plugin folders.
 *
 *   await using ctx = await testContext();
 *   const cut = await ctx.use("segment", "content");
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync } from "node:fs";
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { z } from "zod";
import { createMedia } from "../../daemon/media/index.ts";
import type {
  AnyOperation,
  AnyProvider,
  Context,
  JobOutput,
  Media,
  Pick,
  Picks,
  Plugin,
  State,
  Used,
} from "../../plugins/define.ts";
import { toWaverError, WaverError } from "../../plugins/errors.ts";
import { type HookName, hooks, type In, type Out, type Traits } from "../../plugins/hooks.ts";
import type { Store } from "../../plugins/types.ts";

export interface TestContextOptions {
  /** Kept when given; a temporary folder that is removed at the end otherwise. */
  readonly home?: string;
  /** Plugin folders by name; all that exist when absent. A plugin that cannot be imported is skipped and logged. */
  readonly plugins?: readonly string[];
  /** Providers beside those of the folders, e.g. fakes; they win over folders. */
  readonly provide?: Plugin["provides"];
  /** Configuration of a plugin by its folder's name. */
  readonly config?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  /** What `run` may start. */
  readonly operations?: Readonly<Record<string, AnyOperation>>;
  readonly device?: string;
  readonly memoryBudget?: number;
  readonly signal?: AbortSignal;
}

export interface TestContext extends Context, AsyncDisposable {
  readonly home: string;
  readonly logged: { readonly event: string; readonly fields: Readonly<Record<string, unknown>> }[];
  readonly progressed: { readonly stage: string; readonly done: number; readonly total: number }[];
  /** Keys of units that ran here, and of those that were found done. */
  readonly units: { readonly done: string[]; readonly found: string[] };
  /** A pick with its options parsed; one of an unknown provider is left as it is. */
  settle(hook: HookName, pick: Pick): Pick;
  /** Cancels what runs in this context. */
  cancel(): void;
}

const builtIn = join(import.meta.dir, "../../plugins");

export async function testContext(options: TestContextOptions = {}): Promise<TestContext> {
  const home = options.home ?? mkdtempSync(join(tmpdir(), "waver-test-"));
  const workDir = join(home, "work");
  mkdirSync(join(workDir, "units"), { recursive: true });
  const abort = new AbortController();
  const signal = options.signal === undefined ? abort.signal : AbortSignal.any([abort.signal, options.signal]);
  const logged: TestContext["logged"] = [];
  const log: Context["log"] = (event, fields = {}) => void logged.push({ event, fields });
  const registry = new Registry(options, log);
  const { providers } = registry;
  const residents = new Map<string, { provider: AnyProvider; options: unknown; state: State }>();
  const progressed: TestContext["progressed"] = [];
  const units: TestContext["units"] = { done: [], found: [] };
  const media: Media = createMedia({ signal });

  const breathe = async (): Promise<void> => {
    await new Promise((next) => setImmediate(next));
    if (signal.aborted) throw new WaverError("cancelled", "the job was cancelled");
  };

  async function unit<T>(key: string, schema: z.ZodType<T>, work: () => Promise<T>): Promise<T> {
    const file = join(workDir, "units", `${new Bun.CryptoHasher("sha256").update(key).digest("hex")}.json`);
    if (existsSync(file)) {
      units.found.push(key);
      return schema.parse(JSON.parse(await readFile(file, "utf8")));
    }
    const value = schema.parse(await work());
    await writeFile(`${file}.tmp`, JSON.stringify(value));
    await rename(`${file}.tmp`, file);
    units.done.push(key);
    return value;
  }

  async function use<H extends HookName>(
    hook: H,
    id: string,
    given: Readonly<Record<string, unknown>> = {},
    own: Context = ctx,
  ): Promise<Used<H>> {
    const provider = await registry.provider(hook, id);
    const parsed = provider.options.safeParse(given);
    if (!parsed.success)
      throw new WaverError(
        "invalid_input",
        `${hook} ${id}: ${parsed.error.issues[0]?.path.join(".")}: ${parsed.error.issues[0]?.message}`,
      );
    if (own.device === "meta" && provider.outlines !== true)
      throw new WaverError("needs_unmet", `${id} of ${hook} cannot be planned`);
    const key = `${own.device} ${hook} ${id} ${JSON.stringify(parsed.data)}`;
    let resident = residents.get(key);
    if (resident === undefined) {
      resident = { provider, options: parsed.data, state: await provider.load?.(parsed.data, own) };
      residents.set(key, resident);
    }
    const { state, options: settings } = resident;
    const call = async (input: In<H>): Promise<Out<H>> =>
      hooks[hook].output.parse(await provider.run(input, { options: settings, state, ctx: own })) as Out<H>;
    // Everything stays loaded until the context ends.
    return Object.assign(call, { [Symbol.dispose]: () => undefined });
  }

  const outline: Context["outline"] = (hook, id, given) => use(hook, id, given, { ...ctx, device: "meta" });

  async function run(name: string, input: Readonly<Record<string, unknown>>): Promise<JobOutput> {
    const operation = options.operations?.[name];
    if (operation === undefined)
      throw new WaverError("unknown_operation", `the test context was given no operation ${name}`);
    const started = performance.now();
    const output: unknown = await runOperation(operation, input, ctx);
    return {
      jobId: "job_0000000000000000",
      reused: false,
      output,
      seconds: (performance.now() - started) / 1000,
      peakBytes: process.memoryUsage.rss(),
    };
  }

  const ctx: TestContext = {
    home,
    signal,
    device: options.device ?? "cpu",
    memoryBudget: options.memoryBudget ?? Number.POSITIVE_INFINITY,
    log,
    media,
    workDir,
    logged,
    progressed,
    units,
    breathe,
    unit,
    use,
    outline,
    run,
    store: undefined as unknown as Store,
    progress: (done, total, stage = "") => void progressed.push({ stage, done, total }),
    providers,
    settle: (hook, { id, ...given }) => ({ id, ...registry.parse(hook, id, given) }),
    cancel: () => abort.abort(),
    async [Symbol.asyncDispose]() {
      abort.abort();
      for (const { state } of [...residents.values()].reverse()) {
        if (state === undefined) continue;
        if (Symbol.asyncDispose in state) await state[Symbol.asyncDispose]();
        else state[Symbol.dispose]();
      }
      await ctx.store[Symbol.asyncDispose]();
      if (options.home === undefined) await rm(home, { recursive: true, force: true });
    },
  };
  await registry.load();
  (ctx as { store: Store }).store = await (await use("storage", "local", { root: join(home, "store") }))({});
  return ctx;
}

/** Runs an operation as a request would: input and slots are parsed from one bag, silent slots take their defaults. */
export async function runOperation(
  operation: AnyOperation,
  input: Readonly<Record<string, unknown>>,
  ctx: Context,
): Promise<unknown> {
  const bag = { ...input };
  const picks: Record<string, Picks[string]> = {};
  for (const [name, slot] of Object.entries(operation.slots)) {
    const given = (bag[name] ?? slot.default) as Picks[string];
    delete bag[name];
    if (given === undefined && !slot.optional)
      throw new WaverError("invalid_input", `${name}: pick a provider of ${slot.hook}`);
    // As the daemon does: options of every pick are checked and their defaults filled in before the operation runs.
    const settle = (pick: Pick): Pick => (ctx as Partial<TestContext>).settle?.(slot.hook, pick) ?? pick;
    picks[name] = Array.isArray(given) ? given.map(settle) : given === undefined ? undefined : settle(given as Pick);
  }
  try {
    return operation.output.parse(await operation.run(operation.input.parse(bag), picks, ctx));
  } catch (error) {
    throw toWaverError(error);
  }
}

class Registry {
  readonly #providers = new Map<string, AnyProvider>();

  constructor(
    private readonly options: TestContextOptions,
    private readonly log: Context["log"],
  ) {}

  async load(): Promise<void> {
    const names =
      this.options.plugins ??
      readdirSync(builtIn, { withFileTypes: true })
        .filter((each) => each.isDirectory())
        .map((each) => each.name);
    for (const name of [...new Set([...names, "storage-local"])]) {
      const file = join(builtIn, name, "index.ts");
      if (!existsSync(file)) continue;
      try {
        const plugin = ((await import(file)) as { default: Plugin }).default;
        await plugin.setup?.({
          config: plugin.config.parse(this.options.config?.[name] ?? {}),
          signal: new AbortController().signal,
        });
        for (const { hook, provider } of plugin.provides) this.#providers.set(`${hook} ${provider.id}`, provider);
      } catch (error) {
        // A neighbour's plugin may be half-written; a test that needs it fails at `use`.
        this.log("plugin_skipped", { name, reason: String(error) });
      }
    }
    for (const { hook, provider } of this.options.provide ?? [])
      this.#providers.set(`${hook} ${provider.id}`, provider);
  }

  async provider(hook: HookName, id: string): Promise<AnyProvider> {
    const found = this.#providers.get(`${hook} ${id}`);
    if (found === undefined) throw new WaverError("no_provider", `no provider of ${hook} is called ${id}`);
    return found;
  }

  parse(hook: HookName, id: string, given: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
    const found = this.#providers.get(`${hook} ${id}`);
    if (found === undefined) return given;
    const parsed = found.options.safeParse(given);
    if (!parsed.success)
      throw new WaverError("invalid_input", `${hook} ${id}: ${parsed.error.issues[0]?.message ?? "wrong options"}`);
    return parsed.data as Readonly<Record<string, unknown>>;
  }

  readonly providers: Context["providers"] = <H extends HookName>(hook: H) =>
    [...this.#providers]
      .filter(([key]) => key.startsWith(`${hook} `))
      .map(([, { id, traits, summary, options }]) => ({
        id,
        traits: traits as Traits<H>,
        summary,
        options: Object.keys(options.shape),
      }));
}
