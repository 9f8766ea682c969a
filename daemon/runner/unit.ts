/** Units of work: done once, published whole, found again after a kill. */
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import { WaverError } from "../../plugins/index.ts";
import { textDigest } from "../plugins/digest.ts";

export class Units {
  readonly #folder: string;
  readonly #running = new Map<string, Promise<unknown>>();

  constructor(workDir: string) {
    this.#folder = join(workDir, "units");
  }

  /** The published result of `key`, or that of `work`, published before it is returned. Equal keys at once share the work. */
  async once<T>(key: string, schema: z.ZodType<T>, work: () => Promise<T>): Promise<T> {
    const running = this.#running.get(key);
    if (running !== undefined) return running as Promise<T>;
    const promise = this.#find(key, schema, work);
    this.#running.set(key, promise);
    try {
      return await promise;
    } finally {
      this.#running.delete(key);
    }
  }

  async #find<T>(key: string, schema: z.ZodType<T>, work: () => Promise<T>): Promise<T> {
    const path = join(this.#folder, `${textDigest(key).slice("sha256:".length)}.json`);
    const earlier = await published(path, key, schema);
    if (earlier !== null) return earlier.value;
    const value = await work();
    const text = JSON.stringify({ key, value: value === undefined ? null : value });
    // What a later attempt would read is what this one returns: a result that is no plain data fails now, not after a kill.
    const parsed = schema.safeParse(JSON.parse(text).value);
    if (!parsed.success)
      throw new WaverError(
        "internal",
        `the unit ${key} returned something that its schema does not describe: ${parsed.error.issues[0]?.message ?? ""}`,
      );
    await publish(path, text);
    return parsed.data;
  }
}

/** Null when there is none, or when what is there is damaged: then the unit is computed again. */
async function published<T>(path: string, key: string, schema: z.ZodType<T>): Promise<{ value: T } | null> {
  let content: unknown;
  try {
    content = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  if (content === null || typeof content !== "object" || (content as { key?: unknown }).key !== key) return null;
  const parsed = schema.safeParse((content as { value?: unknown }).value);
  return parsed.success ? { value: parsed.data } : null;
}

/** Writes a file so that readers see all of it or nothing, also after a power cut. */
export async function publish(path: string, text: string): Promise<void> {
  const folder = join(path, "..");
  await mkdir(folder, { recursive: true });
  const temporary = `${path}.${crypto.randomUUID()}.tmp`;
  const file = await open(temporary, "wx");
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  const directory = await open(folder, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
