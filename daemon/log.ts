/** The daemon's log: one JSON object a line in <home>/log/daemon.log, rotated by size. Details of failures live here and only here. */
import { appendFileSync, existsSync, mkdirSync, renameSync, statSync, truncateSync } from "node:fs";
import { dirname } from "node:path";

export type Level = "info" | "warn" | "error";

export type DaemonLog = (level: Level, event: string, fields?: Readonly<Record<string, unknown>>) => void;

const MAX_BYTES = 8 << 20;
const KEPT = 4;
/** A line longer than this says nothing more. */
const MAX_LINE = 16_384;

export function openLog(file: string): DaemonLog {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  let bytes = existsSync(file) ? statSync(file).size : 0;
  let lost = 0;
  const append = (text: string): void => {
    if (bytes + text.length > MAX_BYTES) {
      rotate(file);
      bytes = 0;
    }
    appendFileSync(file, text, { mode: 0o600 });
    bytes += Buffer.byteLength(text);
  };
  return (level, event, fields = {}) => {
    try {
      append((lost > 0 ? lineOf("warn", "log_lines_lost", { lines: lost }) : "") + lineOf(level, event, fields));
      lost = 0;
    } catch (error) {
      // A full disk costs lines of the log, never the daemon. How many is said when there is room again.
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOSPC" && code !== "EDQUOT") throw error;
      lost += 1;
      if (existsSync(file)) truncateSync(file, bytes);
    }
  };
}

const lineOf: (...line: Parameters<DaemonLog>) => string = (level, event, fields = {}) => {
  const head = { time: new Date().toISOString(), level, event };
  const whole = JSON.stringify({ ...head, ...fields }, plain);
  return `${whole.length <= MAX_LINE ? whole : JSON.stringify({ ...head, cut: whole.slice(0, MAX_LINE) })}\n`;
};

function rotate(file: string): void {
  for (let n = KEPT - 1; n >= 1; n -= 1) if (existsSync(`${file}.${n}`)) renameSync(`${file}.${n}`, `${file}.${n + 1}`);
  if (existsSync(file)) renameSync(file, `${file}.1`);
}

/** Errors as data, with cause: `JSON.stringify(new Error())` is `{}`. */
const plain = (_: string, value: unknown): unknown =>
  value instanceof Error
    ? {
        name: value.name,
        message: value.message,
        ...("code" in value ? { code: value.code } : {}),
        stack: value.stack,
        cause: value.cause,
      }
    : typeof value === "bigint"
      ? value.toString()
      : value;
