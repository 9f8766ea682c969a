/** Caption files: JSON (a list, or an object by file), JSONL and CSV with a header; `file, start, end, caption`. */
import { z } from "zod";
import { WaverError } from "../errors.ts";

const seconds = z.coerce.number().nonnegative();
const Entry = z.object({
  file: z.string().min(1),
  /** Absent: from the start; to the end. */
  start: seconds.optional(),
  end: seconds.optional(),
  caption: z.string(),
  actions: z.array(z.object({ start: seconds, end: seconds, text: z.string() })).optional(),
});
export type Entry = z.output<typeof Entry>;

/**
 * The entries of a caption file; throws invalid_input that names the line or entry. `file` is given for a file found
 * beside a video: it is what entries without a file speak of.
 */
export function parseCaptions(text: string, name: string, file?: string): Entry[] {
  const raw = name.endsWith(".csv")
    ? csv(text, name)
    : name.endsWith(".jsonl")
      ? jsonl(text, name)
      : json(text, name, file !== undefined);
  return raw.map((value, index) => {
    const renamed = file === undefined ? value : { file, ...(value as object) };
    const parsed = Entry.safeParse(renamed);
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      throw new WaverError(
        "invalid_input",
        `entry ${index + 1} of ${name} is no caption: ${issue?.path.join(".")}: ${issue?.message}`,
        {
          hint: "an entry has file, caption and, for a part of a video, start and end in seconds",
        },
      );
    }
    const { start, end } = parsed.data;
    if (start !== undefined && end !== undefined && end <= start) {
      throw new WaverError(
        "invalid_input",
        `entry ${index + 1} of ${name} ends at ${end} s, before it starts at ${start} s`,
      );
    }
    return parsed.data;
  });
}

/** A list of entries, or `{ "a.mp4": "caption" | { caption, ... } | [ ... ] }`. */
function json(text: string, name: string, isBeside: boolean): unknown[] {
  const value = parsed(text, name);
  if (Array.isArray(value)) return value;
  if (value === null || typeof value !== "object") throw bad(name, "it holds neither a list nor an object");
  if ("caption" in value) return [value];
  // Found beside a video and without a caption: notes of another program.
  if (isBeside) return [];
  return Object.entries(value).flatMap(([file, each]: [string, unknown]) =>
    (Array.isArray(each) ? each : [each]).map((entry) =>
      typeof entry === "string" ? { file, caption: entry } : { file, ...(entry as object) },
    ),
  );
}

const jsonl = (text: string, name: string): unknown[] =>
  text
    .split(/\r?\n/)
    .map((line, index) => ({ line, index }))
    .filter(({ line }) => line.trim() !== "")
    .map(({ line, index }) => parsed(line, `line ${index + 1} of ${name}`));

function parsed(text: string, name: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw bad(name, "it is not JSON", cause);
  }
}

const bad = (name: string, why: string, cause?: unknown): WaverError =>
  new WaverError("invalid_input", `${name} cannot be read as captions: ${why}`, {
    ...(cause === undefined ? {} : { cause }),
  });

/** RFC 4180: quoted fields may hold commas, line ends and doubled quotes. Empty start and end are absent. */
function csv(text: string, name: string): unknown[] {
  const [header, ...rows] = records(text.replace(/^\uFEFF/, ""));
  const columns = header?.map((column) => column.trim().toLowerCase()) ?? [];
  if (!columns.includes("caption"))
    throw bad(name, "its first line must name the columns file, start, end and caption");
  return rows.map((row) =>
    Object.fromEntries(
      columns.map((column, i) => [column, row[i]]).filter(([, value]) => value !== undefined && value !== ""),
    ),
  );
}

function records(text: string): string[][] {
  const all: string[][] = [];
  let row: string[] = [];
  let field = "";
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i] as string;
    if (quoted) {
      if (c !== '"') field += c;
      else if (text[i + 1] === '"') field += text[i++];
      else quoted = false;
    } else if (c === '"' && field === "") quoted = true;
    else if (c === ",") {
      row.push(field);
      field = "";
    } else if (c === "\n" || c === "\r") {
      if (c === "\r" && text[i + 1] === "\n") i++;
      row.push(field);
      field = "";
      if (row.some((each) => each !== "")) all.push(row);
      row = [];
    } else field += c;
  }
  row.push(field);
  if (row.some((each) => each !== "")) all.push(row);
  return all;
}
