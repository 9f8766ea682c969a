/**
 * Contract suites for plugin authors, exported as `waver/plugin/testing`: the same that every built-in provider passes.
 *
 *   import { checkPlugin, checkProvider } from "waver/plugin/testing";
 *   for (const finding of await checkProvider("score", provider)) expect(finding).toEqual({ ...finding, ok: true });
 *
 * No test framework and no host is needed: every check returns findings, and `waver plugins check` prints them.
 */
import { z } from "zod";
import { checkPlugin as checkDeclaration, checkOperation, checkProvided, jsonSchemaOf } from "./check.ts";
import type { AnyProvider, Context, Plugin, Provided, State } from "./define.ts";
import { type ErrorCode, toWaverError, WaverError } from "./errors.ts";
import { type HookName, hooks, type In } from "./hooks.ts";
import { samplesOf } from "./samples.ts";

/** One fact that was checked. `reason` says what is wrong, in a sentence, or why it could not be checked here; else it is empty. */
export interface Finding {
  readonly subject: string;
  readonly check: string;
  readonly ok: boolean;
  readonly reason: string;
}

export interface ProviderSamples<H extends HookName = HookName> {
  /** Inputs to run on; the suite's own (grey, noise, moving and empty clips, plain prompts) when absent. */
  readonly inputs?: readonly (() => In<H>)[];
  /** Options to load with, for providers that need a checkpoint or an endpoint. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** A context to run in; the suite's own, which has neither store nor media nor other providers, when absent. */
  readonly ctx?: (signal: AbortSignal) => Context;
}

/** Checks a whole plugin: its declaration, and every provider that can run without files of its own. */
export async function checkPlugin(plugin: unknown): Promise<Finding[]> {
  const subject = `plugin ${(plugin as { name?: unknown } | null)?.name ?? "(nameless)"}`;
  const declaration = await finding(subject, "declaration", () => void checkDeclaration(plugin));
  if (!declaration.ok) return [declaration];
  const findings = [declaration];
  const { config, provides, operations = {} } = plugin as Plugin;
  findings.push(await finding(subject, "config has defaults for every field", () => void config.parse({})));
  for (const [name, operation] of Object.entries(operations))
    findings.push(
      await finding(`operation ${name}`, "schemas can be shown to clients", () => {
        checkOperation(name, operation);
        jsonSchemaOf(operation.input, "input");
      }),
    );
  const setUp = await finding(subject, "can be set up without configuration", () => setUpAndLeave(plugin as Plugin));
  findings.push(setUp);
  const parsed = config.safeParse({});
  await using _ready =
    setUp.ok && parsed.success ? await (plugin as Plugin).setup?.({ config: parsed.data, signal: never }) : undefined;
  for (const { hook, provider } of provides) findings.push(...(await checkProvider(hook, provider)));
  return findings;
}

/** Checks one provider: declaration, options, then what its hook promises about running it. */
export async function checkProvider<H extends HookName>(
  hook: H,
  provider: AnyProvider,
  samples: ProviderSamples<H> = {},
): Promise<Finding[]> {
  const subject = `${hook} ${provider.id}`;
  const findings = [
    await finding(subject, "declaration", () => checkProvided(hook, provider)),
    await finding(subject, "options can be shown to clients", () => checkOptions(provider)),
  ];
  if (findings.some((each) => !each.ok)) return findings;
  const given = samples.inputs as readonly (() => unknown)[] | undefined;
  const inputs = given ?? samplesOf(hook, provider);
  const parsed = provider.options.safeParse(samples.options ?? {});
  // Device work needs an engine and weights, and required options a file: whoever has them gives samples.
  const isBare = samples.inputs === undefined && samples.ctx === undefined;
  if (inputs === null || !parsed.success || (provider.runs === "device" && isBare)) return findings;
  const open = samples.ctx ?? ((signal: AbortSignal): Context => bareContext(signal));
  for (const input of inputs)
    findings.push(
      await finding(subject, "keeps the promise of its hook", () => runOnce(hook, provider, parsed.data, input, open)),
    );
  findings.push(
    await finding(subject, "stops when cancelled", () =>
      stopsWhenCancelled(provider, parsed.data, inputs[0] as () => unknown, open),
    ),
  );
  return findings;
}

/** Refusals for want of something that the host or the user must bring: no fault of the provider. */
const ABSENT: ReadonlySet<ErrorCode> = new Set([
  "needs_unmet",
  "no_provider",
  "engine_missing",
  "tool_missing",
  "checkpoint_missing",
]);

const never = new AbortController().signal;

/** Set-up runs once a process and may run again after a failure: twice in a row must do. */
async function setUpAndLeave({ config, setup }: Plugin): Promise<void> {
  const parsed = config.safeParse({});
  if (!parsed.success || setup === undefined) return;
  const made = await setup({ config: parsed.data, signal: never });
  await made?.[Symbol.asyncDispose]();
}

/** What failed, one line each; empty when everything holds. */
export const failures = (findings: readonly Finding[]): string[] =>
  findings.filter((each) => !each.ok).map((each) => `${each.subject}: ${each.check}: ${each.reason}`);

function checkOptions(provider: AnyProvider): void {
  const schema = jsonSchemaOf(provider.options, "input");
  const text = JSON.stringify(schema);
  if (text.length > 64 * 1024) throw new WaverError("plugin_invalid", "its options' JSON Schema is larger than 64 kB");
  const once = provider.options.safeParse({});
  if (!once.success) return;
  const again = provider.options.safeParse(once.data);
  if (!again.success || !Bun.deepEquals(again.data, once.data))
    throw new WaverError(
      "plugin_invalid",
      "parsing its parsed options again changes them; options must be plain data with defaults",
    );
}

async function runOnce(
  hook: HookName,
  provider: AnyProvider,
  options: unknown,
  input: () => unknown,
  open: (signal: AbortSignal) => Context,
): Promise<void> {
  const ctx = open(new AbortController().signal);
  await using loaded = await load(provider, options, ctx);
  const before = hooks[hook].input.parse(input());
  const frozen = snapshot(before);
  const output: unknown = await provider.run(before as never, { options, state: loaded.state, ctx });
  const parsed = hooks[hook].output.safeParse(output);
  if (!parsed.success)
    throw new WaverError(
      "plugin_invalid",
      `it returned something else than ${hook} promises: ${z.prettifyError(parsed.error)}`,
    );
  if (snapshot(before) !== frozen)
    throw new WaverError("plugin_invalid", "it changed its input; values are returned, never written into an argument");
  checkMeaning(hook, provider, parsed.data, before);
}

/** Promises that a schema cannot say. */
function checkMeaning(hook: HookName, provider: AnyProvider, output: unknown, input: unknown): void {
  const traits = provider.traits as { measures?: string[]; dim?: number | null };
  const refuse = (reason: string): never => {
    throw new WaverError("plugin_invalid", reason);
  };
  if (hook === "score") {
    const scores = output as Record<string, number>;
    for (const [name, value] of Object.entries(scores))
      if (!Number.isFinite(value)) refuse(`the measure ${name} is ${value}`);
    const missing = traits.measures?.find((name) => !(name in scores));
    const extra = Object.keys(scores).find((name) => traits.measures?.includes(name) !== true);
    if (missing !== undefined) refuse(`its traits promise the measure ${missing}, which it did not return`);
    if (extra !== undefined) refuse(`it returned the measure ${extra}, which its traits do not name`);
  }
  if (hook === "embed") {
    const vector = output as Float32Array;
    if (traits.dim !== null && vector.length !== traits.dim)
      refuse(`its traits promise ${traits.dim} features, it returned ${vector.length}`);
    if (!vector.every(Number.isFinite)) refuse("a feature is not finite");
  }
  if (hook === "segment") {
    const { clip } = input as { clip: { start: number; end: number } };
    let last = clip.start;
    // A frame's length of slack: cuts fall on frames, ends of files between them.
    for (const { start, end } of output as { start: number; end: number }[]) {
      if (!(start < end) || start < last - 0.1 || end > clip.end + 0.1)
        refuse(`the shot ${start}-${end} is empty, out of order or outside ${clip.start}-${clip.end}`);
      last = end;
    }
  }
}

async function stopsWhenCancelled(
  provider: AnyProvider,
  options: unknown,
  input: () => unknown,
  open: (signal: AbortSignal) => Context,
): Promise<void> {
  const cancel = new AbortController();
  cancel.abort(new WaverError("cancelled", "the job was cancelled"));
  const ctx = open(cancel.signal);
  try {
    await using loaded = await load(provider, options, ctx);
    // Short work may well finish; what it must not do is fail in a way of its own.
    await provider.run(input() as never, { options, state: loaded.state, ctx });
  } catch (error) {
    const known = toWaverError(error);
    if (ABSENT.has(known.code)) throw known;
    if (known.code !== "cancelled")
      throw new WaverError("plugin_invalid", `cancelled, it failed with ${known.code} instead: ${known.message}`);
  }
}

async function load(
  provider: AnyProvider,
  options: unknown,
  ctx: Context,
): Promise<{ state: State } & AsyncDisposable> {
  const state: State = await provider.load?.(options, ctx);
  return {
    state,
    async [Symbol.asyncDispose]() {
      if (state === undefined) return;
      if (Symbol.asyncDispose in state) await state[Symbol.asyncDispose]();
      else state[Symbol.dispose]();
    },
  };
}

const snapshot = (value: unknown): string =>
  JSON.stringify(value, (key, each) => (key === "frames" ? undefined : each)) ?? "";

async function finding(subject: string, check: string, work: () => void | Promise<void>): Promise<Finding> {
  try {
    await work();
    return { subject, check, ok: true, reason: "" };
  } catch (error) {
    const { code, message } = toWaverError(error);
    return ABSENT.has(code)
      ? { subject, check, ok: true, reason: `not checked here: ${message}` }
      : { subject, check, ok: false, reason: message };
  }
}

/** A context that has nothing but a signal: what a scorer, captioner or rewriter must be content with. */
function bareContext(signal: AbortSignal): Context {
  const absent = (what: string) => (): never => {
    throw new WaverError("needs_unmet", `the contract suite has no ${what}; give checkProvider a context that has`);
  };
  const proxy = <T>(what: string): T => new Proxy({}, { get: () => absent(what) }) as T;
  return {
    signal,
    device: "cpu",
    memoryBudget: Number.POSITIVE_INFINITY,
    log: () => undefined,
    media: proxy("media"),
    store: proxy("store"),
    get workDir(): string {
      return absent("work folder")();
    },
    progress: () => undefined,
    breathe: async () => signal.throwIfAborted(),
    unit: async (_, __, work) => work(),
    use: absent("other providers"),
    outline: absent("other providers"),
    providers: () => [],
    run: absent("child jobs"),
  };
}

/** All providers of a plugin that belong to one hook. */
export const providersOf = (plugin: Plugin, hook: HookName): Provided[] =>
  plugin.provides.filter((each) => each.hook === hook);
