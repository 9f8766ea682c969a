/**
 * The table of core operations: every file beside this one that exports an operation. A file with one operation gives
 * it its own name; a file with several exports `operations` by name.
 */
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { isOperation } from "../../plugins/check.ts";
import type { AnyOperation } from "../../plugins/index.ts";

/** All core operations by name, and one sentence for each file that could not be imported. */
export async function coreOperations(): Promise<{ operations: Map<string, AnyOperation>; problems: string[] }> {
  const operations = new Map<string, AnyOperation>();
  const problems: string[] = [];
  for (const file of (await readdir(import.meta.dir)).sort()) {
    if (!file.endsWith(".ts") || file.endsWith(".test.ts") || file === "index.ts") continue;
    try {
      const module = (await import(join(import.meta.dir, file))) as Record<string, unknown>;
      for (const [name, operation] of operationsOf(basename(file, ".ts"), module)) operations.set(name, operation);
    } catch (error) {
      // One broken verb must not take the daemon down with it: it is reported, and the others work.
      problems.push(
        `the operation file ${file} cannot be loaded: ${error instanceof Error ? error.message.split("\n")[0] : String(error)}`,
      );
    }
  }
  return { operations, problems };
}

function operationsOf(name: string, module: Record<string, unknown>): [string, AnyOperation][] {
  const several = module["operations"];
  if (several !== null && typeof several === "object" && !isOperation(several))
    return Object.entries(several as Record<string, unknown>).filter((entry): entry is [string, AnyOperation] =>
      isOperation(entry[1]),
    );
  const seen = new Set(Object.values(module).filter(isOperation));
  if (seen.size > 1) throw new Error(`it exports ${seen.size} operations; export them by name as \`operations\``);
  return [...seen].map((operation) => [name, operation as AnyOperation]);
}
