/** The registry of the stand-in's operations, and a daemon over both. `bun test/support/standin-registry.ts --home DIR` runs one. */
import { join } from "node:path";
import { z } from "zod";
import { type Config, loadConfig } from "../../daemon/config.ts";
import type { ProcessProgram } from "../../daemon/jobs/process.ts";
import { startDaemon } from "../../daemon/main.ts";
import { daemonOf } from "../../daemon/operations/context.ts";
import type { RegisteredOperation, RegisteredProvider, Registry } from "../../daemon/plugins/registry.ts";
import { type AnyOperation, defineOperation } from "../../plugins/define.ts";
import { WaverError } from "../../plugins/errors.ts";

const never = async (): Promise<never> => {
  throw new Error("runs in the stand-in");
};
const operation = (
  kind: "query" | "job",
  runs: AnyOperation["runs"],
  input: z.ZodObject,
  more: Partial<AnyOperation> = {},
): AnyOperation =>
  defineOperation({ kind, summary: "a stand-in", runs, input, output: z.unknown(), slots: {}, run: never, ...more });

const steps = z.strictObject({
  steps: z.int().min(0).default(3),
  ms: z.int().min(0).default(10),
  trace: z.string().optional(),
  nonce: z.string().optional(),
});
const OPERATIONS: Record<string, AnyOperation> = {
  echo: operation("job", "worker", z.strictObject({ text: z.string() })),
  ask: operation("query", "worker", z.strictObject({ text: z.string() })),
  steps: operation("job", "device", steps),
  workerSteps: operation("job", "worker", steps),
  die: operation("job", "device", z.strictObject({})),
  dieOnce: operation("job", "device", z.strictObject({})),
  stop: operation("job", "device", z.strictObject({})),
  stubborn: operation("job", "worker", z.strictObject({})),
  fail: operation("job", "worker", z.strictObject({})),
  talk: operation("job", "worker", z.strictObject({})),
  liar: operation("job", "worker", z.strictObject({})),
  copy: operation("job", "worker", z.strictObject({ from: z.string(), to: z.string() }), {
    reads: (input) => [(input as { from: string }).from],
    writes: (output) => [(output as { to: string }).to],
  }),
  parent: operation(
    "job",
    "worker",
    z.strictObject({
      children: z.array(z.object({ operation: z.string(), input: z.record(z.string(), z.unknown()) })),
      dieAfter: z.boolean().optional(),
    }),
  ),
  renew: operation("job", "daemon", z.strictObject({}), {
    run: async (_, __, ctx) => (await daemonOf(ctx).reload()).plugins.map(({ state }) => state),
  }),
  useRemote: operation("job", "device", z.strictObject({ hook: z.string(), id: z.string(), value: z.unknown() })),
};

function registered(name: string, declared: AnyOperation): RegisteredOperation {
  return {
    name,
    plugin: null,
    kind: declared.kind,
    summary: declared.summary,
    place: { role: declared.runs, plugin: null },
    slots: {},
    examples: [],
    bodySchema: declared.input,
    declared,
    parse: (body) => {
      const result = declared.input.safeParse(body);
      if (result.success) return { body: result.data, input: result.data, picks: {} };
      const issue = result.error.issues[0];
      throw new WaverError(
        issue?.code === "unrecognized_keys" ? "unknown_option" : "invalid_input",
        `${name}: ${issue?.path.join(".")}: ${issue?.message}`,
        {
          data: {
            issues: result.error.issues.map((each: z.core.$ZodIssue) => ({ path: each.path, message: each.message })),
          },
        },
      );
    },
  };
}

const provider = (
  hook: "score" | "caption",
  id: string,
  role: "worker" | "device",
  plugin: string | null,
): RegisteredProvider => ({
  hook,
  id,
  plugin: plugin ?? "ours",
  summary: "a stand-in",
  place: { role, plugin },
  traits: {},
  options: z.object({}),
  declared: null,
});

export function standinRegistry(quarantined: ReadonlyMap<string, string> = new Map()): Registry {
  const operations = new Map(Object.entries(OPERATIONS).map(([name, declared]) => [name, registered(name, declared)]));
  const providers = [
    provider("score", "near", "worker", null),
    provider("caption", "gpu", "device", null),
    provider("score", "dead", "worker", "bad-plugin"),
  ].filter((each) => !quarantined.has(each.plugin));
  const docs = {
    wire: 1,
    version: "0.0.0",
    pluginSet: `sha256:${"0".repeat(64)}`,
    operations: [...operations.values()].map(({ name, kind, summary, declared }) => ({
      name,
      kind,
      summary,
      plugin: null,
      input: z.toJSONSchema((declared as AnyOperation).input, { io: "input" }) as Record<string, unknown>,
      output: {},
      slots: {},
      examples: [],
    })),
    providers: [],
  };
  return {
    plugins: [...quarantined].map(([name, reason]) => ({
      name,
      version: "1",
      origin: "installed",
      folder: "",
      state: "quarantined",
      reason,
      provides: [],
      operations: [],
    })),
    operations,
    providers: (hook) => providers.filter((each) => hook === undefined || each.hook === hook),
    provider: (hook, id) => providers.find((each) => each.hook === hook && each.id === id),
    docs: () => docs,
    pluginSet: docs.pluginSet,
    warnings: [],
    loaded: new Map(),
  };
}

export const standinProgram = (silenceMs = 15_000): ProcessProgram => ({
  command: [process.execPath, join(import.meta.dir, "standin.ts")],
  env: () => ({ PATH: process.env["PATH"] ?? "" }),
  cwd: import.meta.dir,
  silenceMs,
  startMs: 30_000,
});

export const standinConfig = (
  home: string,
  more: NonNullable<Parameters<typeof loadConfig>[0]>["set"] = {},
): Promise<Config> =>
  loadConfig({ from: home, env: { HOME: home, XDG_CONFIG_HOME: home }, set: { home, workers: 2, ...more } });

if (import.meta.main) {
  const home = process.argv[process.argv.indexOf("--home") + 1] ?? "";
  try {
    const daemon = await startDaemon({
      config: await standinConfig(home),
      load: async ({ quarantined }) => standinRegistry(quarantined),
      program: standinProgram(),
    });
    process.stdout.write(`${JSON.stringify({ ready: true, pid: process.pid })}\n`);
    process.on("SIGTERM", () => void daemon.stop());
    await daemon.stopped;
    process.exit(0);
  } catch (error) {
    process.stdout.write(
      `${JSON.stringify({ ready: false, error: (error as WaverError).toBody?.() ?? String(error) })}\n`,
    );
    process.exit(1);
  }
}
