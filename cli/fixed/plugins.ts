/** `waver plugins ...`: the operations plugins-*, with arguments where a person would write them. */
import { resolve } from "node:path";
import type { Command } from "@oclif/core";
import type { OperationDoc, OperationsDoc, PluginDoc } from "../../daemon/wire.ts";
import { WaverCommand } from "../command.ts";
import { type CommandWays, commandOf } from "../operation.ts";
import { padEnd, plain, type Style, styleOf } from "../style.ts";

type Ways = CommandWays & {
  /** Fields whose value may be a name as well as a path: only what looks like a path becomes one. */
  readonly nameOrPath?: string;
};

const PREFIX = "plugins-";

const WAYS: Readonly<Record<string, Ways>> = {
  list: { answer: (output, json) => shown(output as PluginDoc[], json) },
  add: { positional: ["package"], nameOrPath: "package" },
  remove: { positional: ["name"] },
  new: {
    positional: ["name", "folder"],
    finish: (body) =>
      typeof body["name"] === "string" && body["folder"] === undefined
        ? { ...body, folder: resolve(body["name"].split("/").at(-1) ?? ".") }
        : body,
  },
  check: {
    positional: ["folder"],
    finish: (body) => ({ folder: resolve("."), ...body }),
    answer: (output) => {
      if ((output as { ok?: boolean }).ok === false) process.exitCode = 1;
    },
  },
};

class Reload extends WaverCommand {
  static override readonly summary = "looks for plugins again; running jobs are not touched";

  async run(): Promise<void> {
    const { flags } = await this.given();
    shown(await (await this.daemon()).reloadPlugins(), flags["json"] === true);
  }
}

export function plugins(docs: OperationsDoc | null): Readonly<Record<string, Command.Class>> {
  if (docs === null) return {};
  const made = docs.operations
    .filter(({ name }) => name.startsWith(PREFIX))
    .map((operation) => {
      const verb = operation.name.slice(PREFIX.length);
      const ways = WAYS[verb] ?? {};
      return [`plugins:${verb}`, commandOf(relaxed(operation, ways), docs, ways)] as const;
    });
  return { ...Object.fromEntries(made), "plugins:reload": Reload };
}

/** What the command line fills in itself is not asked for, and a name is not made a path. */
function relaxed(operation: OperationDoc, ways: Ways): OperationDoc {
  const input = operation.input as { properties?: Record<string, Record<string, unknown>>; required?: string[] };
  const properties = Object.fromEntries(
    Object.entries(input.properties ?? {}).map(([name, schema]) => {
      const { format, ...rest } = schema;
      return [name, name === ways.nameOrPath || format === undefined ? rest : schema];
    }),
  );
  return {
    ...operation,
    input: {
      ...input,
      properties,
      required: (input.required ?? []).filter((name) => ways.finish === undefined || name !== "folder"),
    },
  };
}

function shown(all: readonly PluginDoc[], json: boolean): void {
  if (json) return void process.stdout.write(`${JSON.stringify({ type: "result", output: all })}\n`);
  process.stdout.write(all.map((each) => `${row(each, styleOf(process.stdout))}\n`).join("") || "no plugins\n");
}

function row(
  { name, version, origin, state, reason, provides, operations }: PluginDoc,
  { green, yellow, red, dim, signs }: Style,
): string {
  const sign = state === "loaded" ? green(signs.done) : state === "skipped" ? yellow(signs.warn) : red(signs.failed);
  const what =
    state === "loaded"
      ? [...provides, ...operations.map((each) => `waver ${each}`)].join(", ")
      : `${state}: ${plain(reason)}`;
  return `${sign} ${padEnd(name, 22)}  ${padEnd(origin === "builtin" ? "built in" : version, 8)}  ${state === "loaded" ? dim(what) : what}`;
}
