/**
 * Which third-party plugins are at work in a runner, written where the daemon finds it when the runner is dead. Written
 * before their code is touched and at once: the last words of a process that crashes must not wait for a turn.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";

const Uses = z.object({
  /** Whose code runs, or whose values are in use beside the tensors. One that waits for the host, or for another, is not. */
  now: z.array(z.string()),
  /** Imported at some time: their code may still have timers and threads. */
  ever: z.array(z.string()),
});
export type Uses = z.output<typeof Uses>;

export const usesFile = (home: string, pid: number): string => join(home, "run", "processes", `${pid}.uses`);

/** What a process wrote; empty for one that never ran third-party code. */
export function readUses(file: string): Uses {
  try {
    return Uses.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch {
    // Absent, or cut off by the very crash it was to explain: it names nobody.
    return { now: [], ever: [] };
  }
}

export class UsesLog {
  readonly #file: string | null;
  readonly #now = new Map<string, number>();
  readonly #ever = new Set<string>();

  /** `file`: null where nobody reads it. */
  constructor(file: string | null) {
    this.#file = file;
    if (file !== null) mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  }

  /** Until it is disposed, this plugin is at work here; null is the host's own code. */
  enter(plugin: string | null): Disposable {
    if (plugin === null || this.#file === null) return { [Symbol.dispose]: () => undefined };
    this.#count(plugin, 1);
    let isIn = true;
    return {
      [Symbol.dispose]: () => {
        if (isIn) this.#count(plugin, -1);
        isIn = false;
      },
    };
  }

  /** For a pulse: at work while its code runs. */
  turns(plugin: string | null): ((isRunning: boolean) => void) | undefined {
    return plugin === null || this.#file === null ? undefined : (isRunning) => this.#count(plugin, isRunning ? 1 : -1);
  }

  #count(plugin: string, change: number): void {
    const before = this.#now.get(plugin) ?? 0;
    this.#now.set(plugin, before + change);
    this.#ever.add(plugin);
    // Only the first in and the last out change what is to be read.
    if (this.#file === null || (before > 0 && before + change > 0)) return;
    const now = [...this.#now].flatMap(([name, users]) => (users > 0 ? [name] : []));
    try {
      writeFileSync(this.#file, JSON.stringify({ now, ever: [...this.#ever] } satisfies Uses), { mode: 0o600 });
    } catch (error) {
      // A full disk costs the name of a culprit, not the work of an innocent.
      if (!["ENOSPC", "EDQUOT"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }
}
