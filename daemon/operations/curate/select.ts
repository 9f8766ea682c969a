/** Runs selectors in order over the clip table and counts what each rule dropped. */
import { join } from "node:path";
import { type ClipRow, type Context, type Pick, readTable, writeTable } from "../../../plugins/index.ts";

/** Rows after all selectors, in their first order; a row that a selector took out is put back with that selector's name as its rule. */
export async function select(rows: readonly ClipRow[], picks: readonly Pick[], ctx: Context): Promise<ClipRow[]> {
  let current = [...rows];
  for (const [index, { id, ...options }] of picks.entries()) {
    using run = await ctx.use("select", id, options);
    const before = await writeTable(join(ctx.workDir, `select-${index}.parquet`), current);
    const after = await readTable(await run(before));
    current = merged(current, after, id);
    ctx.progress(index + 1, picks.length, "selectors");
    await ctx.breathe();
  }
  return current;
}

/** Rows are known by clip and path: a clip that two files hold is two rows. */
const keyOf = (row: ClipRow): string => `${row.id} ${row.path}`;

function merged(before: readonly ClipRow[], after: readonly ClipRow[], selector: string): ClipRow[] {
  const seen = new Map(after.map((row) => [keyOf(row), row]));
  return before.map((row) => {
    const found = seen.get(keyOf(row));
    if (found !== undefined) return found;
    return row.dropped === null ? { ...row, dropped: selector, reason: `the selector ${selector} left it out` } : row;
  });
}

export interface RuleCount {
  readonly rule: string;
  /** Clips that it dropped. */
  readonly clips: number;
  /** Clips that were left after it. */
  readonly kept: number;
}

/** Counts by rule; `order` lists rules that come first, the others follow as they first appear. */
export function counts(rows: readonly ClipRow[], order: readonly string[] = []): RuleCount[] {
  const byRule = new Map<string, number>();
  for (const { dropped } of rows) if (dropped !== null) byRule.set(dropped, (byRule.get(dropped) ?? 0) + 1);
  const rules = [
    ...order.filter((rule) => byRule.has(rule)),
    ...[...byRule.keys()].filter((rule) => !order.includes(rule)),
  ];
  let kept = rows.length;
  return rules.map((rule) => {
    const clips = byRule.get(rule) ?? 0;
    kept -= clips;
    return { rule, clips, kept };
  });
}
