/** Description -> folder: clips are taken in, the page is written, and the whole replaces an older one at once. */
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import { shownIn } from "./clips.ts";
import { Description } from "./description.ts";
import { ancestry } from "./lineage.ts";
import { MediaFolder } from "./media.ts";
import { page } from "./page.ts";

export interface Written {
  readonly page: string;
  readonly numClips: number;
  readonly bytes: number;
}

export async function writeReport(file: string, output: string, ctx: Context): Promise<Written> {
  const description = await readDescription(file);
  const target = resolve(output);
  // Beside the target, so that the last rename stays on one file system.
  const partial = `${target}.partial-${process.pid}`;
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { recursive: true });
  try {
    const media = new MediaFolder(partial, dirname(resolve(file)), ctx);
    const spans = [...shownIn(description)];
    for (const [i, span] of spans.entries()) {
      await media.take(span);
      ctx.progress(i + 1, spans.length, "clips");
      await ctx.breathe();
    }
    const lineage = description.best ? await ancestry(ctx.store, description.best.digest, ctx.signal) : null;
    await writeFile(join(partial, "index.html"), page(description, media.shown, lineage));
    await replace(partial, target);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
  return { page: join(target, "index.html"), ...(await contentsOf(target)) };
}

async function readDescription(file: string): Promise<Description> {
  let data: unknown;
  try {
    data = JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new WaverError("invalid_input", `${file} is not a readable JSON file`, {
      cause,
      hint: "a report is made from a description; the quick start writes one",
    });
  }
  const parsed = Description.safeParse(data);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new WaverError(
    "invalid_input",
    `${file} does not describe a report: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "unreadable"}`,
  );
}

/** A folder cannot replace a full one in one step: the old one steps aside for the moment between two renames. */
async function replace(partial: string, target: string): Promise<void> {
  const old = `${partial}.old`;
  await rename(target, old).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
  await rename(partial, target);
  await rm(old, { recursive: true, force: true });
}

async function contentsOf(folder: string): Promise<{ numClips: number; bytes: number }> {
  let [numClips, bytes] = [0, 0];
  for await (const name of new Bun.Glob("**/*").scan({ cwd: folder, onlyFiles: true })) {
    if (name.endsWith(".mp4")) numClips++;
    bytes += (await stat(join(folder, name))).size;
  }
  return { numClips, bytes };
}
