/** `waver jobs ...`: look at jobs, follow them, end them. */
import { Args, type Command, Flags } from "@oclif/core";
import type { JobState, JobView } from "../../daemon/wire.ts";
import { WaverError } from "../../plugins/errors.ts";
import { globalFlags, need, WaverCommand, watchFlags } from "../command.ts";
import { sentence } from "../failure.ts";
import { clock, padEnd, plain, type Style, styleOf } from "../style.ts";
import { outputLines } from "../summary.ts";
import { watch } from "../watch.ts";

const idArg = { id: Args.string({ description: "id of a job", ignoreStdin: true }) };
const STATES: readonly JobState[] = ["queued", "running", "done", "failed", "cancelled"];
const line = (value: unknown): unknown => process.stdout.write(`${JSON.stringify(value)}\n`);

class List extends WaverCommand {
  static override readonly summary = "lists jobs, newest first";
  static override readonly flags = {
    state: Flags.string({ description: `only jobs in this state: ${STATES.join(", ")}`, helpValue: "<word>" }),
    operation: Flags.string({ description: "only jobs of this operation", helpValue: "<name>" }),
    parent: Flags.string({ description: "only jobs that this job started", helpValue: "<id>" }),
    limit: Flags.string({ description: "most jobs shown [default: 20]", helpValue: "<n>" }),
    ...globalFlags,
  };

  async run(): Promise<void> {
    const { flags } = await this.given();
    const state = STATES.find((each) => each === flags["state"]);
    if (flags["state"] !== undefined && state === undefined)
      throw new WaverError("invalid_input", `--state is one of ${STATES.join(", ")}`);
    const limit = Number(flags["limit"] ?? 20);
    if (!Number.isSafeInteger(limit) || limit < 1)
      throw new WaverError("invalid_input", "--limit is a whole number from 1");
    const text = (name: string): string | undefined => flags[name] as string | undefined;
    const [operation, parent] = [text("operation"), text("parent")];
    const jobs = await (await this.daemon()).jobs({
      limit,
      ...(state === undefined ? {} : { state }),
      ...(operation === undefined ? {} : { operation }),
      ...(parent === undefined ? {} : { parent }),
    });
    if (flags["json"] === true) for (const job of jobs) line(job);
    else if (jobs.length === 0) process.stdout.write("no jobs\n");
    else for (const job of jobs) process.stdout.write(`${row(job, styleOf(process.stdout))}\n`);
  }
}

class Show extends WaverCommand {
  static override readonly summary = "shows one job: input, state, output";
  static override readonly args = idArg;

  async run(): Promise<void> {
    const { flags, args } = await this.given();
    const id = need(args, "id", "waver jobs show ID; waver jobs list shows ids");
    const job = await (await this.daemon()).job(id);
    if (flags["json"] === true) return void line(job);
    const style = styleOf(process.stdout);
    const { bold, dim } = style;
    const facts = [
      `  ${dim("accepted")}  ${when(job.createdAt)}`,
      ...(job.parent === null ? [] : [`  ${dim("part of")}   ${job.parent}`]),
      ...(job.attempt > 1 ? [`  ${dim("attempt")}   ${job.attempt}`] : []),
    ];
    const part = (title: string, value: unknown): string[] =>
      value === undefined || value === null ? [] : [bold(title), ...outputLines(value, style)];
    process.stdout.write(
      `${[row(job, style), ...facts, ...part("input", job.input), ...part("output", job.output)].join("\n")}\n`,
    );
    if (job.error !== undefined) process.stdout.write(`${sentence(job.error as Parameters<typeof sentence>[0])}\n`);
  }
}

class Watch extends WaverCommand {
  static override readonly summary = "shows a job's progress from its start to its end";
  static override readonly args = idArg;
  static override readonly flags = { ...watchFlags, ...globalFlags };

  async run(): Promise<void> {
    const { flags, args } = await this.given();
    const id = need(args, "id", "waver jobs watch ID; waver jobs list shows ids");
    const client = await this.daemon();
    const job = await client.job(id);
    await watch(client, job, {
      json: flags["json"] === true,
      verbose: flags["verbose"] === true,
      cancelOnInterrupt: flags["cancel-on-interrupt"] === true,
    });
  }
}

class Cancel extends WaverCommand {
  static override readonly summary = "cancels a job: it ends at its next step";
  static override readonly args = idArg;

  async run(): Promise<void> {
    const { flags, args } = await this.given();
    const id = need(args, "id", "waver jobs cancel ID; waver jobs list shows ids");
    const job = await (await this.daemon()).cancel(id);
    if (flags["json"] === true) return void line(job);
    process.stdout.write(
      job.state === "cancelled" ? `${job.id} is cancelled\n` : `${job.id} is told to end (${job.state})\n`,
    );
  }
}

class Logs extends WaverCommand {
  static override readonly summary = "prints the log lines of a job";
  static override readonly args = idArg;

  async run(): Promise<void> {
    const { flags, args } = await this.given();
    const job = need(args, "id", "waver jobs logs ID; waver jobs list shows ids");
    const client = await this.daemon();
    const { dim } = styleOf(process.stdout);
    for (let after = 0; ; ) {
      const { lines, last } = await client.logs(job, after);
      for (const each of lines) {
        if (flags["json"] === true) line(each);
        else
          process.stdout.write(
            `${dim(each.time.slice(11, 19))} ${padEnd(each.level, 5)} ${each.event}  ${dim(
              plain(
                Object.entries(each.fields)
                  .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)
                  .join("  "),
              ),
            )}\n`,
          );
      }
      if (lines.length === 0 || last <= after) return;
      after = last;
    }
  }
}

export const jobs: Readonly<Record<string, Command.Class>> = {
  "jobs:list": List,
  "jobs:show": Show,
  "jobs:watch": Watch,
  "jobs:cancel": Cancel,
  "jobs:logs": Logs,
};

function row({ id, operation, state, createdAt, seconds, progress, reused, error }: JobView, style: Style): string {
  const { dim, green, red, cyan, yellow } = style;
  const colour = { queued: dim, running: cyan, done: green, failed: red, cancelled: yellow }[state];
  const what =
    state === "running" && progress !== undefined
      ? `${progress.stage} ${progress.done}/${progress.total}`
      : error !== undefined
        ? state === "queued"
          ? `paused: ${error.code}`
          : error.code
        : reused
          ? "reused"
          : "";
  return `${id}  ${padEnd(operation, 14)}  ${colour(padEnd(state, 9))}  ${when(createdAt)}  ${padEnd(seconds > 0 ? clock(seconds) : "", 8)}  ${dim(plain(what))}`.trimEnd();
}

const when = (iso: string): string => new Date(iso).toLocaleString("sv-SE");
