/** Units of work: done once by one state of the code, published whole, found again after a kill. */
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WaverError } from "../../plugins/index.ts";
import { textDigest } from "../plugins/digest.ts";

/**
 * The code that a job's results have come from so far: part (a plugin, or the host) and its digest. Every unit is kept
 * with what stood here when it was done, so a result is found again only while all of that is unchanged.
 */
export class CodeUsed {
  readonly #current: (part: string) => string | null;
  readonly #used = new Map<string, string>();

  /** `current`: the digest of a part as this process has it; null when it is not there. */
  constructor(current: (part: string) => string | null = () => null) {
    this.#current = current;
  }

  /** From here on, what is computed may depend on this part. */
  add(part: string): void {
    const digest = this.#current(part);
    if (digest !== null) this.#used.set(part, digest);
  }

  /** Whether code is what it was. Then what was found counts as used: later results may depend on it. */
  takeOver(used: Readonly<Record<string, string>>): boolean {
    const parts = Object.entries(used);
    if (parts.some(([part, digest]) => this.#current(part) !== digest)) return false;
    for (const [part, digest] of parts) this.#used.set(part, digest);
    return true;
  }

  all(): Record<string, string> {
    return Object.fromEntries([...this.#used].sort());
  }
}

export class Units {
  readonly #folder: string;
  readonly #code: CodeUsed;
  readonly #running = new Map<string, Promise<unknown>>();

  constructor(workDir: string, code: CodeUsed = new CodeUsed()) {
    this.#folder = join(workDir, "units");
    this.#code = code;
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
    if (earlier !== null && this.#code.takeOver(earlier.code)) return earlier.value;
    const value = await work();
    const text = JSON.stringify({ key, code: this.#code.all(), value: value === undefined ? null : value });
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

const Kept = z.object({ key: z.string(), code: z.record(z.string(), z.string()), value: z.unknown() });

interface Published<T> {
  readonly code: Readonly<Record<string, string>>;
  readonly value: T;
}

/** Null when there is none, or when what is there is damaged: then the unit is computed again. */
async function published<T>(path: string, key: string, schema: z.ZodType<T>): Promise<Published<T> | null> {
  let content: unknown;
  try {
    content = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  const kept = Kept.safeParse(content);
  if (!kept.success || kept.data.key !== key) return null;
  const value = schema.safeParse(kept.data.value);
  return value.success ? { code: kept.data.code, value: value.data } : null;
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
