/**
 * Models on this machine: <home>/models/NAME is a folder as it was published, NAME.json beside it says where it came from.
 * A folder is there whole or not at all.
 */
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

export const ModelName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,95}$/, "a model's name: lower-case letters, digits, - . and _");

export const ModelRecord = z.object({
  name: ModelName,
  /** `hf:org/name`. */
  source: z.string(),
  /** The commit. */
  revision: z.string(),
  pulledAt: z.string(),
  bytes: z.int().nonnegative(),
  files: z.array(z.object({ path: z.string(), size: z.int().nonnegative(), sha256: z.string() })),
});
export type ModelRecord = z.output<typeof ModelRecord>;

export const modelsFolder = (home: string): string => join(home, "models");
export const modelFolder = (home: string, name: string): string => join(modelsFolder(home), name);
const recordPath = (home: string, name: string): string => join(modelsFolder(home), `${name}.json`);

/** Everything that is whole, by name. */
export function modelsHere(home: string): ModelRecord[] {
  if (!existsSync(modelsFolder(home))) return [];
  return readdirSync(modelsFolder(home))
    .filter((name) => ModelName.safeParse(name).success && existsSync(recordPath(home, name)))
    .sort()
    .map((name) => readRecord(home, name))
    .filter((record) => record !== null);
}

export function readRecord(home: string, name: string): ModelRecord | null {
  if (!ModelName.safeParse(name).success || !existsSync(modelFolder(home, name))) return null;
  try {
    return ModelRecord.parse(JSON.parse(readFileSync(recordPath(home, name), "utf8")));
  } catch {
    return null; // no record, or one that somebody else wrote: not a model that was pulled
  }
}

export function writeRecord(home: string, record: ModelRecord): void {
  const path = recordPath(home, record.name);
  writeFileSync(`${path}.${process.pid}.tmp`, `${JSON.stringify(record, null, 1)}\n`);
  renameSync(`${path}.${process.pid}.tmp`, path);
}

/** The folder that a name stands for; anything else as it was written. */
export function placeOfModel(home: string, given: string): string {
  if (!ModelName.safeParse(given).success) return given;
  const folder = modelFolder(home, given);
  return existsSync(folder) ? folder : given;
}
