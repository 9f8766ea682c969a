/** Job events -> a terminal with live lines, plain lines for a pipe, or JSON lines for a program. */
import type { JobEvent, JobView } from "../daemon/wire.ts";
import type { Followed } from "./follow.ts";
import { LiveLines } from "./live.ts";
import { pictureLines, pictureOf, showsPictures } from "./preview.ts";
import { type Change, type Running, type Stage, Stages } from "./stages.ts";
import { clock, numberText, padEnd, padStart, plain, type Style, styleOf, widthOf } from "./style.ts";
import { summaryOf } from "./summary.ts";

export interface Renderer {
  event(event: JobEvent, job: Followed): void;
  /** A line for the person at the terminal. */
  note(text: string): void;
  /** A newer picture of what a job is making, as PNG; absent where none can be shown. */
  picture?(png: Uint8Array): void;
  result(job: JobView): void;
  close(): void;
}

export interface Output {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export interface RenderOptions {
  readonly json: boolean;
  readonly verbose: boolean;
  readonly out?: Output;
}

export function createRenderer({ json, verbose, out = process.stdout }: RenderOptions): Renderer {
  if (json) return jsonRenderer(out);
  const style = styleOf(out);
  return out.isTTY === true && process.env["TERM"] !== "dumb"
    ? liveRenderer(out, style, verbose)
    : plainRenderer(out, style, verbose);
}

/** One object a line: every event as the daemon sent it, then the result. */
function jsonRenderer(out: Output): Renderer {
  const line = (value: unknown): unknown => out.write(`${JSON.stringify(value)}\n`);
  return {
    event: (event) => void line(event),
    note: (text) => void process.stderr.write(`${text}\n`),
    result: ({ id, operation, state, reused, seconds, peakBytes, output }) =>
      void line({ type: "result", job: id, operation, state, reused, seconds, peakBytes, output }),
    close: () => undefined,
  };
}

/** Lines of one stage in a pipe come no faster than this. */
const PLAIN_MS = 1000;
/** Width of a pipe: none. */
const PIPE = Number.POSITIVE_INFINITY;

function plainRenderer(out: Output, style: Style, verbose: boolean): Renderer {
  const stages = new Stages();
  /** When a stage of a job last had a line. */
  const said = new Map<string, number>();
  const say = (text: string): unknown => out.write(`${text}\n`);
  return {
    event: (event, job) => {
      for (const change of stages.take(event, job)) {
        if (change.kind === "progress") {
          const { done, total, stage } = change.stage.progress;
          const key = `${job.id} ${stage}`;
          const isDue = performance.now() - (said.get(key) ?? Number.NEGATIVE_INFINITY) >= PLAIN_MS;
          // The last word of a stage is the line that closes it.
          if (!isDue || (total > 0 && done >= total)) continue;
          said.set(key, performance.now());
          say(plainLine(job, change.stage));
        } else for (const text of permanent(change, style, verbose, nameColumns(PIPE))) say(text);
      }
    },
    note: (text) => void say(text),
    result: (job) => void say(summaryOf(job, style)),
    close: () => undefined,
  };
}

function plainLine(job: Followed, { progress }: Stage): string {
  const { done, total, rate, eta, detail } = progress;
  const share = total > 0 ? `${Math.floor((100 * done) / total)} %` : "";
  const pace = rate === undefined || done >= total ? "" : rateText(rate);
  const left = eta === undefined || done >= total ? "" : `${clock(eta)} left`;
  return [`${nameOf(job, progress.stage)}: ${countText(done, total)}`, share, pace, left, detailText(detail)]
    .filter(Boolean)
    .join("  ");
}

function liveRenderer(out: Output, style: Style, verbose: boolean): Renderer {
  const stages = new Stages();
  const started = Date.now();
  // The daemon's clock may be another machine's: elapsed times are counted from when this one heard.
  let drift = 0;
  let picture: ReturnType<typeof pictureOf> = null;
  const lines = new LiveLines(out, (columns) => {
    const shown = stages.running.filter(({ stage, job }) => stage !== null || job.depth > 0);
    const all = shown.length > 0 ? shown : stages.running;
    const drawn = picture === null ? [] : pictureLines(picture, Math.min(columns, PICTURE.columns), PICTURE.lines);
    return [...drawn, ...all.map((running) => liveLine(running, Date.now() - drift, columns, style))];
  });
  return {
    event: (event, job) => {
      const behind = Date.now() - Date.parse(event.time);
      if (Date.parse(event.time) >= started || behind < 0) drift = behind;
      const permanentLines = stages
        .take(event, job)
        .flatMap((change) => permanent(change, style, verbose, nameColumns(out.columns ?? 80)));
      if (permanentLines.length > 0) lines.print(...permanentLines);
      lines.touch();
    },
    note: (text) => lines.print(text),
    ...(style.colour && style.unicode && showsPictures()
      ? {
          picture: (png: Uint8Array) => {
            picture = pictureOf(png);
            lines.touch();
          },
        }
      : {}),
    result: (job) => {
      lines.close();
      out.write(`${summaryOf(job, style)}\n`);
    },
    close: () => lines.close(),
  };
}

/** A preview is to be glanced at: it leaves most of a screen to what was there. */
const PICTURE = { columns: 48, lines: 14 };
const COUNT = 11;
/** Columns of names: wide terminals and files have room for whole ones. */
const nameColumns = (columns: number): number => (columns >= 95 ? 30 : 22);

/** `sign name  count  time` of what is over; nothing for what goes on. */
function permanent(change: Change, style: Style, verbose: boolean, columns: number): string[] {
  const { signs, green, yellow, red, dim } = style;
  const row = (sign: string, name: string, ...rest: string[]): string =>
    [`${sign} ${padEnd(short(name, columns), columns)}`, ...rest.filter((text) => text !== "")].join("  ").trimEnd();
  switch (change.kind) {
    case "progress":
      return [];
    case "stage-done": {
      const { progress, since, until } = change.stage;
      const sign = change.complete ? green(signs.done) : red(signs.failed);
      return [
        row(
          sign,
          nameOf(change.job, progress.stage),
          padStart(countText(progress.done, progress.total), COUNT),
          dim(padStart(clock((until - since) / 1000), 8)),
          detailText(progress.detail) === "" ? "" : dim(detailText(progress.detail)),
        ),
      ];
    }
    case "job-done": {
      if (change.job.depth === 0) return [];
      const { operation } = change.job;
      if (change.state === "done" && change.reused)
        return [row(green(signs.reused), operation, padStart("reused", COUNT))];
      // One stage says it all.
      if (change.state === "done" && change.stages === 1) return [];
      if (change.state === "done")
        return [row(green(signs.done), operation, padStart("in all", COUNT), dim(padStart(clock(change.seconds), 8)))];
      return [row(red(signs.failed), operation, padStart(change.state, COUNT), plain(change.message ?? ""))];
    }
    case "retry":
      return [`${yellow(signs.warn)} ${change.job.operation} goes on where it stopped (attempt ${change.attempt})`];
    case "log": {
      if (change.level === "info" && !verbose) return [];
      const sign =
        change.level === "info" ? dim(signs.dot) : change.level === "warn" ? yellow(signs.warn) : red(signs.failed);
      const text = `${change.job.operation}: ${plain(change.text)}`;
      return [`${sign} ${change.level === "info" ? dim(text) : text}`];
    }
  }
}

function liveLine({ job, state, since, stage }: Running, now: number, columns: number, style: Style): string {
  const { cyan, dim, signs } = style;
  const names = nameColumns(columns + 1);
  if (stage === null) {
    const what = state === "queued" ? "waiting for its turn" : "starting";
    return `${cyan(signs.now)} ${padEnd(short(job.operation, names), names)}  ${dim(`${what}  ${clock((now - since) / 1000)}`)}`;
  }
  const { progress } = stage;
  const { done, total, rate, eta } = progress;
  const name = padEnd(short(nameOf(job, progress.stage), names), names);
  const count = padStart(countText(done, total), COUNT);
  // From the most to the least worth its columns; what does not fit is left out.
  const extras = [
    eta === undefined || done >= total ? "" : `${clock(eta)} left`,
    rate === undefined ? "" : rateText(rate),
    clock((now - stage.since) / 1000),
    detailText(progress.detail),
  ];
  // The bar's width depends on nothing that changes from one drawing to the next.
  const width = Math.min(MAX_BAR, columns - names - widthOf(count) - EXTRAS - 8);
  const bar = total > 0 && width >= MIN_BAR ? `${barOf(done / total, width, style)}  ` : "";
  let room = columns - 2 - names - 2 - widthOf(count) - (bar === "" ? 0 : width + 2);
  const shown: string[] = [];
  for (const extra of extras) {
    if (extra === "" || widthOf(extra) + 2 > room) continue;
    shown.push(extra);
    room -= widthOf(extra) + 2;
  }
  const [first, ...others] = shown;
  return `${cyan(signs.now)} ${name}  ${bar}${count}${first === undefined ? "" : `  ${first}`}${others.length > 0 ? dim(`  ${others.join("  ")}`) : ""}`;
}

/** Columns kept for time left, rate and elapsed time. */
const EXTRAS = 24;
const MIN_BAR = 8;
const MAX_BAR = 28;

function barOf(share: number, width: number, { unicode, cyan, dim }: Style): string {
  const filled = Math.max(0, Math.min(1, share)) * width;
  const whole = Math.floor(filled);
  if (!unicode) return `${"#".repeat(whole)}${".".repeat(width - whole)}`;
  const half = whole < width && filled - whole >= 0.5;
  const rest = width - whole - (half ? 1 : 0);
  return `${cyan("━".repeat(whole) + (half ? "╸" : ""))}${dim("─".repeat(rest))}`;
}

/** `train · steps`; a stage that is named like its operation says so once. */
const nameOf = (job: Followed, stage: string): string =>
  plain(stage === "" || stage === job.operation ? job.operation : `${job.operation} ${stage}`);

const whole = (n: number): string => (Number.isInteger(n) ? String(n) : n.toFixed(1));
const countText = (done: number, total: number): string => (total > 0 ? `${whole(done)}/${whole(total)}` : whole(done));

function rateText(rate: number): string {
  if (rate >= 0.95) return `${rate >= 100 ? Math.round(rate) : rate.toFixed(1)}/s`;
  return `${clock(1 / Math.max(rate, 1e-6))} each`;
}

/** Up to three small facts, such as a loss. */
function detailText(detail: Readonly<Record<string, unknown>> | undefined): string {
  const facts = Object.entries(detail ?? {}).filter(
    ([, value]) => typeof value === "number" || (typeof value === "string" && value.length <= 40),
  );
  return facts
    .slice(0, 3)
    .map(([key, value]) => `${key} ${typeof value === "number" ? numberText(value) : plain(String(value))}`)
    .join("  ");
}

function short(text: string, columns: number): string {
  if (widthOf(text) <= columns) return text;
  return `${Bun.stripANSI(text).slice(0, Math.max(1, columns - 1))}~`;
}
