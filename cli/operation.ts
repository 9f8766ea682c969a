/** The command of one operation, made from its document. */
import { type Command, Flags, type Interfaces } from "@oclif/core";
import type { JobView, OperationDoc, OperationsDoc } from "../daemon/wire.ts";
import { exitCode, WaverError } from "../plugins/errors.ts";
import { bodyOf } from "./body.ts";
import { globalFlags, type Parsed, WaverCommand, watchFlags } from "./command.ts";
import { freshDocs } from "./docs.ts";
import { argsOf, flagsOf, type Shape, shapeOf } from "./flags.ts";
import { readRecipe } from "./recipe.ts";
import { styleOf } from "./style.ts";
import { outputLines } from "./summary.ts";
import { isHere } from "./target.ts";
import { told, watch } from "./watch.ts";

/** How a command differs from what its document alone would give. */
export interface CommandWays {
  /** Fields that are arguments, in their order. */
  readonly positional?: readonly string[];
  /** The last touch to a body, and the last word on an answer of a query or the output of a job. */
  finish?(body: Record<string, unknown>): Record<string, unknown>;
  answer?(output: unknown, json: boolean): void;
}

export function commandOf(operation: OperationDoc, docs: OperationsDoc, ways: CommandWays = {}): Command.Class {
  const shape = shapeOf(operation, docs.providers, ways.positional);
  const isJob = operation.kind === "job";
  const ownRecipe = shape.fields.some(({ flag }) => flag === "recipe");
  return class extends WaverCommand {
    static override readonly summary = operation.summary;
    static override readonly description = isJob
      ? "Runs as a job: Ctrl-C leaves it running and says how to watch it again; on a terminal a second Ctrl-C within 2 s cancels it."
      : "";
    static override readonly examples = operation.examples.map((each) =>
      each.startsWith("waver ") ? `$ ${each}` : each,
    );
    static override readonly args = argsOf(shape);
    static override readonly usage = `<%= command.id %>${usageOf(shape)} [OPTIONS]`;
    static override readonly flags: Interfaces.FlagInput = {
      ...flagsOf(shape, operation),
      input: Flags.string({
        helpGroup: "job",
        helpValue: "<file>",
        description: `the whole request from a JSON, YAML or TypeScript file, FILE#NAME for one of several, - for standard input; flags win over it${ownRecipe ? "" : "; also --recipe"}`,
        ...(ownRecipe ? {} : { aliases: ["recipe"] }),
      }),
      ...(isJob
        ? {
            detach: Flags.boolean({ helpGroup: "job", description: "return at once with the id of the job" }),
            priority: Flags.string({
              helpGroup: "job",
              helpValue: "<n>",
              description: "-100 to 100: of jobs that wait, the higher runs first [default: 0]",
            }),
            ...watchFlags,
          }
        : {}),
      ...globalFlags,
    };

    async run(): Promise<void> {
      const parsed = await this.given();
      const typed = await this.#body(parsed);
      const body = ways.finish?.(typed) ?? typed;
      const client = await this.daemon();
      const json = parsed.flags["json"] === true;
      const current = await freshDocs(this.target, client);
      if (!current.operations.some(({ name }) => name === operation.name))
        throw new WaverError(
          "version_mismatch",
          `the daemon that runs has other plugins, and no operation ${operation.name}`,
          {
            hint: "waver plugins reload, or waver stop: the next command starts a new one",
            data: { here: docs.pluginSet, daemon: current.pluginSet },
          },
        );
      const priority = priorityOf(parsed.flags["priority"]);
      const answer = await client.call(operation.name, body, priority).catch((error: unknown) => {
        throw current.pluginSet === docs.pluginSet ? error : withDoubt(error);
      });
      if (!isJob) return (ways.answer ?? printAnswer)(answer, json);
      const job = answer as JobView;
      if (parsed.flags["detach"] === true) return told(job, json, "accepted");
      const outcome = await watch(client, job, {
        json,
        verbose: parsed.flags["verbose"] === true,
        cancelOnInterrupt: parsed.flags["cancel-on-interrupt"] === true,
      });
      if (outcome === "done" && ways.answer !== undefined) ways.answer((await client.job(job.id)).output, json);
    }

    async #body({ flags, raw }: Parsed): Promise<Record<string, unknown>> {
      const path = flags["input"];
      const base = typeof path === "string" ? await readRecipe(path, operation.name, process.cwd()) : {};
      return bodyOf(shape, { tokens: raw, base, cwd: isHere(this.target) ? process.cwd() : null });
    }
  };
}

function priorityOf(given: unknown): { priority?: number } {
  if (given === undefined) return {};
  const priority = Number(given);
  if (!Number.isInteger(priority) || Math.abs(priority) > 100 || given === "")
    throw new WaverError(
      "invalid_input",
      `--priority is a whole number from -100 to 100, not ${JSON.stringify(given)}`,
    );
  return { priority };
}

/** The request was refused by a daemon that has other plugins than the help was made from. */
function withDoubt(error: unknown): unknown {
  if (!(error instanceof WaverError) || exitCode(error.code) !== 2) return error;
  const doubt = "the daemon that runs has other plugins than are here now: waver plugins reload, or waver stop";
  return new WaverError(error.code, error.message, {
    hint: error.hint === undefined ? doubt : `${error.hint}; ${doubt}`,
    data: { ...error.data, daemon: true },
    cause: error,
  });
}

const usageOf = ({ positional }: Shape): string =>
  positional.map(({ flag, meaning }) => ` [${flag.toUpperCase()}${meaning.kind === "list" ? "..." : ""}]`).join("");

export function printAnswer(output: unknown, json: boolean): void {
  if (json) return void process.stdout.write(`${JSON.stringify({ type: "result", output })}\n`);
  const lines = typeof output === "string" ? [output] : outputLines(output, styleOf(process.stdout));
  process.stdout.write(`${lines.length === 0 ? "done" : lines.join("\n")}\n`);
}
