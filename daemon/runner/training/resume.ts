/**
 * Resume points of a training run: `step-00000120/` with one safetensors file a part and `manifest.json`.
 *
 * A point is published whole or not at all: files and manifest are written and synced in a folder beside it, then the
 * folder is renamed. The last two are kept, and an older one goes only after the newer was read back and its hashes
 * agreed. A run that finds points but no sound one fails: it never starts over in silence.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WaverError } from "../../../plugins/index.ts";

export const ResumePoint = z.object({
  format: z.literal(1),
  /** Steps done. */
  step: z.int().nonnegative(),
  /** Digest of everything that shapes the run; a point of another recipe is not continued. */
  recipe: z.string(),
  /** Bytes of the loss log that belong to these steps. */
  lossLog: z.int().nonnegative(),
  files: z.array(z.object({ name: z.string(), bytes: z.int(), sha256: z.string() })),
});
export type ResumePoint = z.output<typeof ResumePoint>;

const NAME = /^step-(\d{8})$/;
const KEEP = 2;

export class ResumePoints {
  readonly folder: string;
  readonly #recipe: string;

  constructor(folder: string, recipe: string) {
    this.folder = folder;
    this.#recipe = recipe;
  }

  /** Writes a point by `write`, which fills a folder with files, and drops those before the last two. */
  async publish(at: { step: number; lossLog: number }, write: (folder: string) => void | Promise<void>): Promise<void> {
    await mkdir(this.folder, { recursive: true });
    const target = join(this.folder, `step-${String(at.step).padStart(8, "0")}`);
    const work = join(this.folder, `tmp.${crypto.randomUUID()}`);
    await mkdir(work);
    await write(work);
    const files: ResumePoint["files"] = [];
    for (const name of (await readdir(work)).sort()) {
      const path = join(work, name);
      await sync(path);
      files.push({ name, bytes: (await stat(path)).size, sha256: await sha256(path) });
    }
    const manifest: ResumePoint = { format: 1, step: at.step, recipe: this.#recipe, lossLog: at.lossLog, files };
    await Bun.write(join(work, "manifest.json"), JSON.stringify(manifest, null, 1));
    await sync(join(work, "manifest.json"));
    await sync(work);
    await rm(target, { recursive: true, force: true });
    await rename(work, target);
    await sync(this.folder);
    await verify(target);
    const old = (await this.#names()).slice(0, -KEEP);
    for (const name of old) await rm(join(this.folder, name), { recursive: true, force: true });
  }

  /** The newest sound point, or null when there is none at all. `damaged` hears of points that were passed over. */
  async latest(damaged: (path: string, reason: string) => void): Promise<{ path: string; point: ResumePoint } | null> {
    const names = (await this.#names()).toReversed();
    for (const name of names) {
      const path = join(this.folder, name);
      try {
        const point = await verify(path);
        if (point.recipe !== this.#recipe) throw new Error("it belongs to another recipe");
        return { path, point };
      } catch (error) {
        damaged(path, error instanceof Error ? error.message : String(error));
      }
    }
    if (names.length === 0) return null;
    throw new WaverError(
      "checkpoint_invalid",
      `none of the ${names.length} resume points in ${this.folder} can be used`,
      {
        hint: "start the training again under a new job, or put a sound copy of the folder back",
      },
    );
  }

  /** Oldest first; leftovers of a kill are cleared away. */
  async #names(): Promise<string[]> {
    const all = await readdir(this.folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return [];
      throw error;
    });
    for (const name of all.filter((each) => each.startsWith("tmp.")))
      await rm(join(this.folder, name), { recursive: true, force: true });
    return all.filter((name) => NAME.test(name)).sort();
  }
}

async function verify(path: string): Promise<ResumePoint> {
  const point = ResumePoint.parse(JSON.parse(await readFile(join(path, "manifest.json"), "utf8")));
  for (const file of point.files) {
    const at = join(path, file.name);
    if ((await stat(at)).size !== file.bytes) throw new Error(`${file.name} has the wrong length`);
    if ((await sha256(at)) !== file.sha256) throw new Error(`${file.name} has changed since it was written`);
  }
  return point;
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** Forces a file or a folder to disk. */
async function sync(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
