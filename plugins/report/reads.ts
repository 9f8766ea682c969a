/** The files that a report is made from, known before it is: what decides whether an earlier one can be used again. */
import { readFileSync } from "node:fs";
import { dirname, isAbsolute, resolve } from "node:path";
import { shownIn } from "./clips.ts";
import { Description } from "./description.ts";

/** A description that cannot be read is left to the operation, which says what is wrong with it. */
export function readsOf(file: string): string[] {
  let description: Description;
  try {
    description = Description.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch {
    return [file];
  }
  const base = dirname(resolve(file));
  const clips = [...shownIn(description)].map(({ file: clip }) => (isAbsolute(clip) ? clip : resolve(base, clip)));
  return [file, ...new Set(clips)];
}
