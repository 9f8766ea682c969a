/**
 * One operation in this very process, with no daemon: for tests, and for trying an operation while it is written.
 * `bun daemon/runner/inline.ts curate '{"videos": "clips"}'`.
 */
import { join } from "node:path";
import { exitCode, type JobOutput, toWaverError, WaverError } from "../../plugins/index.ts";
import { type Config, loadConfig } from "../config.ts";
import { textDigest } from "../plugins/digest.ts";
import { loadRegistry, type Registry } from "../plugins/registry.ts";
import type { Progress } from "../wire.ts";
import type { Work } from "./context.ts";
import type { Link } from "./link.ts";
import { peakBytes } from "./memory.ts";
import { Runner } from "./runner.ts";

export interface InlineOptions {
  readonly config: Config;
  readonly signal?: AbortSignal;
  /** Where jobs keep what they must find again. Default `<home>/inline`. */
  readonly workDir?: string;
  readonly onProgress?: (progress: Progress, operation: string) => void;
  readonly onLog?: (event: string, fields: Readonly<Record<string, unknown>>) => void;
}

export interface Inline extends AsyncDisposable {
  registry(): Registry;
  run(operation: string, body: Readonly<Record<string, unknown>>): Promise<JobOutput>;
}

/** A runner that answers itself. The same body finds its earlier folder, and so its finished units. */
export async function openInline(options: InlineOptions): Promise<Inline> {
  const signal = options.signal ?? new AbortController().signal;
  const load = (): Promise<Registry> => loadRegistry({ config: options.config, signal });
  let registry = await load();
  const reload = async (): Promise<Registry> => (registry = await load());
  const nobody = (): Promise<never> => Promise.reject(new WaverError("internal", "an inline runner has nobody to ask"));
  const link: Link = { send: () => undefined, use: nobody, submit: nobody };
  const runner = new Runner({
    role: "inline",
    device: options.config.device,
    plugin: null,
    config: options.config,
    registry,
    link,
    reload,
    daemon: { config: options.config, registry: () => registry, reload },
  });
  const root = options.workDir ?? join(options.config.home, "inline");

  async function run(
    operation: string,
    body: Readonly<Record<string, unknown>>,
    until: AbortSignal,
  ): Promise<JobOutput> {
    const id = textDigest(JSON.stringify([operation, body])).slice("sha256:".length, "sha256:".length + 16);
    const work: Work = {
      signal: until,
      workDir: join(root, `${operation}-${id}`),
      progress: (progress) => options.onProgress?.(progress, operation),
      log: (_, event, fields) => options.onLog?.(event, fields),
      use: nobody,
      submit: run,
    };
    const start = performance.now();
    const output = await runner.execute(operation, body, work);
    return {
      jobId: `inline-${id}`,
      reused: false,
      output,
      seconds: (performance.now() - start) / 1000,
      peakBytes: peakBytes(),
    };
  }

  return {
    registry: () => registry,
    run: (operation, body) => run(operation, body, signal),
    [Symbol.asyncDispose]: () => runner[Symbol.asyncDispose](),
  };
}

if (import.meta.main) {
  const [operation = "", body = "{}"] = process.argv.slice(2);
  const abort = new AbortController();
  process.on("SIGINT", () => abort.abort(new WaverError("cancelled", "the job was cancelled")));
  await using inline = await openInline({
    config: await loadConfig(),
    signal: abort.signal,
    onProgress: ({ stage, done, total, rate }, name) =>
      process.stderr.write(`${name} ${stage} ${done}/${total}${rate === undefined ? "" : ` ${rate.toFixed(2)}/s`}\n`),
    onLog: (event, fields) => process.stderr.write(`${event} ${JSON.stringify(fields)}\n`),
  });
  for (const warning of inline.registry().warnings) process.stderr.write(`${warning}\n`);
  try {
    const output = await inline.run(operation, JSON.parse(body) as Record<string, unknown>);
    process.stdout.write(`${JSON.stringify(output, null, 2)}\n`);
  } catch (error) {
    const known = toWaverError(error);
    process.stderr.write(`${JSON.stringify(known.toBody(), null, 2)}\n${known.stack ?? ""}\n`);
    process.exitCode = exitCode(known.code);
  }
}
