/**
 * Job folders below <home>/work. An unfinished job finds in its folder what an earlier attempt, or earlier equal work,
 * left there; the folders of a finished tree of jobs go together, because a parent may still read what a child wrote.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";

/** Folders of abandoned work are kept this long, in case the same is asked again. */
const KEPT_MS = 7 * 24 * 3_600_000;

export class WorkFolders {
  readonly #root: string;

  constructor(home: string) {
    this.#root = join(home, "work");
    mkdirSync(this.#root, { recursive: true, mode: 0o700 });
  }

  path(workKey: string): string {
    return join(this.#root, workKey);
  }

  open(workKey: string): string {
    const path = this.path(workKey);
    mkdirSync(path, { recursive: true, mode: 0o700 });
    return path;
  }

  /** A file that a running job keeps for those who watch it; null when there is none, or something else of that name. */
  async read(workKey: string, name: string, mostBytes: number): Promise<Uint8Array<ArrayBuffer> | null> {
    const path = join(this.#root, workKey, name);
    const facts = lstatSync(path, { throwIfNoEntry: false });
    if (facts?.isFile() !== true || facts.size > mostBytes) return null;
    // The job may end, and its folder go, between the two.
    return Bun.file(path)
      .bytes()
      .catch(() => null);
  }

  /** Out of the way at once (equal work may start again in the next moment), off the disk soon after. */
  async remove(workKey: string): Promise<void> {
    const path = this.path(workKey);
    if (!existsSync(path)) return;
    const trash = join(this.#root, `.trash-${crypto.randomUUID()}`);
    renameSync(path, trash);
    await rm(trash, { recursive: true, force: true });
  }

  /** At start: what a crash left half removed, and folders that nobody came back for. */
  sweep(needed: ReadonlySet<string>): void {
    for (const name of readdirSync(this.#root)) {
      const path = join(this.#root, name);
      const isOld = Date.now() - statSync(path).mtimeMs > KEPT_MS;
      if (name.startsWith(".trash-") || name.startsWith("query_") || (isOld && !needed.has(name)))
        rmSync(path, { recursive: true, force: true });
    }
  }
}
