/** `waver` alone and `waver --help`: what there is, on one screen. */
import type { OperationDoc, OperationsDoc } from "../daemon/wire.ts";
import { keptDocs } from "./docs.ts";
import { padEnd, type Style, styleOf } from "./style.ts";
import type { Target } from "./target.ts";

/** The whole at once. Steps of its own, named after it, are nothing to start by hand. */
const MAIN = ["quickstart"];
/** The pieces in the order in which a model comes about; others follow by name. */
const ORDER = ["curate", "train", "generate", "refine", "merge", "evaluate", "trace"];

const DAEMON: readonly (readonly [string, string])[] = [
  ["plan generate", "what a generation would take, from shapes alone"],
  ["jobs", "list, show, watch, cancel, logs"],
  ["models", "list, show, rm: models on this machine; pull fetches them"],
  ["plugins", "list, add, remove, new, check, reload"],
  ["open", "an address of the daemon's pages for a browser"],
  ["status, serve, stop", "the daemon; any command starts it when it is needed"],
  ["doctor", "what was found on this machine, and the cure for each lack"],
  ["client types", "TypeScript declarations of all operations"],
];

/** Operations that are commands of their own. Those named `plugins-...`, `models-...` and `plan-...` are reached through `waver plugins` and so on. */
export const shownOperations = (docs: OperationsDoc): OperationDoc[] =>
  docs.operations.filter(({ name }) => !/^(plugins|models|plan)-/.test(name));

export async function overview(target: Target): Promise<string> {
  const style = styleOf(process.stdout);
  const { bold, dim } = style;
  let operations: OperationDoc[] = [];
  let problem = "";
  try {
    operations = shownOperations(await keptDocs(target));
  } catch (error) {
    // Help must help most when something is broken.
    problem = `${style.yellow(style.signs.warn)} the operations cannot be listed: ${(error as Error).message}\n  run: waver doctor\n\n`;
  }
  const rank = ({ name }: OperationDoc): number => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  const main = operations.filter(({ name }) => MAIN.includes(name));
  const pieces = operations
    .filter(({ name }) => !MAIN.includes(name))
    .sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
  const row = ({ name, summary }: OperationDoc): readonly [string, string] => [name, summary];
  return [
    `${bold("waver")}  from raw video to an evaluated video-generation model\n\n`,
    problem,
    section("The main job", main.map(row), style),
    section("Its pieces", pieces.map(row), style),
    section("The daemon", DAEMON, style),
    `${dim("Details:  waver COMMAND --help")}\n${dim("Everywhere:  --json, --home FOLDER, --url URL --token TEXT (a daemon elsewhere)")}\n`,
    `${dim("Ctrl-C leaves a job running and says how to watch it again; twice within 2 s cancels it.")}\n`,
  ].join("");
}

const NAME = 20;

function section(title: string, rows: readonly (readonly [string, string])[], { bold, cyan }: Style): string {
  if (rows.length === 0) return "";
  const room = Math.max(30, (process.stdout.columns ?? 100) - NAME - 5);
  const lines = rows.map(
    ([name, text]) => `  ${cyan(padEnd(name, NAME))}  ${wrapped(text, room).join(`\n${" ".repeat(NAME + 4)}`)}`,
  );
  return `${bold(title)}\n${lines.join("\n")}\n\n`;
}

function wrapped(text: string, room: number): string[] {
  const lines: string[] = [""];
  for (const word of text.split(" ")) {
    const last = lines.at(-1) as string;
    if (last !== "" && last.length + 1 + word.length > room) lines.push(word);
    else lines[lines.length - 1] = last === "" ? word : `${last} ${word}`;
  }
  return lines;
}
