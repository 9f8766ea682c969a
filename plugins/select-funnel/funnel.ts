/** Walks every clip through the stages and marks it with the first rule that it fails. */
import { join } from "node:path";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import { type ClipRow, readTable, writeTable } from "../table.ts";
import type { Relation } from "../types.ts";
import type { BalanceRule, RangeRule, Recipe } from "./recipe.ts";

export interface FunnelOptions {
  readonly recipe?: Recipe | undefined;
  readonly stage?: string | undefined;
}

const EVERYTHING: Recipe = { name: "everything", stages: [{ id: "all", rules: [] }] };

export async function funnel(
  relation: Relation,
  { recipe = EVERYTHING, stage }: FunnelOptions,
  ctx: Pick<Context, "log" | "workDir">,
): Promise<Relation> {
  const target = stage === undefined ? recipe.stages.length - 1 : recipe.stages.findIndex(({ id }) => id === stage);
  if (target < 0) {
    throw new WaverError("invalid_input", `the funnel ${recipe.name} has no stage ${stage}`, {
      hint: `its stages: ${recipe.stages.map(({ id }) => id).join(", ")}`,
    });
  }
  const rows = await readTable(relation);
  for (const measure of unmeasured(recipe, rows)) ctx.log("rule_not_measured", { recipe: recipe.name, ...measure });
  const marked = marks(recipe, target, rows);
  return writeTable(join(ctx.workDir, `funnel-${crypto.randomUUID()}.parquet`), marked);
}

/** Rows with `stage`, `dropped` and `reason`; rows that an earlier selector dropped keep their mark and their place. */
export function marks(recipe: Recipe, target: number, rows: readonly ClipRow[]): ClipRow[] {
  const out = rows.map((row) => ({ ...row, stage: null as string | null }));
  let alive = out.filter((row) => row.dropped === null);
  recipe.stages.forEach(({ id, rules }, index) => {
    for (const rule of rules) {
      const failed = "balance" in rule ? overfull(rule, alive) : outside(rule, alive);
      if (index <= target) {
        for (const [row, figures] of failed) {
          row.dropped = `${id}/${rule.id}`;
          row.reason = `${figures}: ${rule.why}`;
        }
      }
      alive = alive.filter((row) => !failed.has(row));
    }
    for (const row of alive) row.stage = id;
  });
  return out;
}

type Failed = Map<ClipRow, string>;

function outside(rule: RangeRule, rows: readonly ClipRow[]): Failed {
  const failed: Failed = new Map();
  for (const row of rows) {
    const value = measureOf(row, rule.measure);
    if (value === undefined) {
      if (rule.missing === "drop") failed.set(row, `${rule.measure} is not known`);
    } else if (rule.min !== undefined && !(value >= rule.min))
      failed.set(row, `${rule.measure} is ${figure(value)}, under ${figure(rule.min)}`);
    else if (rule.max !== undefined && !(value <= rule.max))
      failed.set(row, `${rule.measure} is ${figure(value)}, over ${figure(rule.max)}`);
  }
  return failed;
}

function overfull(rule: BalanceRule, rows: readonly ClipRow[]): Failed {
  const failed: Failed = new Map();
  const groups = Map.groupBy(rows, (row) => row[rule.balance] as string);
  // One group alone cannot be out of balance.
  if (groups.size < 2) return failed;
  const most = Math.max(1, Math.floor(rule.maxShare * rows.length));
  for (const [name, members] of groups) {
    if (members.length <= most) continue;
    const value = (row: ClipRow): number =>
      rule.prefer === undefined ? 0 : (measureOf(row, rule.prefer) ?? Number.NEGATIVE_INFINITY);
    // Clip ids are digests: as a tie-break they are a fixed random order.
    const ordered = members.toSorted((a, b) => value(b) - value(a) || (a.id < b.id ? -1 : 1));
    for (const row of ordered.slice(most))
      failed.set(
        row,
        `${rule.balance} ${name} has ${members.length} of ${rows.length} clips, over ${figure(rule.maxShare * 100)} %`,
      );
  }
  return failed;
}

/** A stored score, or a figure that follows from the row's own fields. */
export function measureOf(row: ClipRow, measure: string): number | undefined {
  if (measure === "caption.words")
    return row.caption === null ? undefined : row.caption.split(/\s+/).filter((word) => word !== "").length;
  return row.scores[measure];
}

/** Rules about measures that no clip has: without a word they would seem to have been passed. */
function unmeasured(recipe: Recipe, rows: readonly ClipRow[]): { rule: string; measure: string }[] {
  return recipe.stages.flatMap(({ id, rules }) =>
    rules.flatMap((rule) =>
      "measure" in rule && rows.length > 0 && rows.every((row) => measureOf(row, rule.measure) === undefined)
        ? [{ rule: `${id}/${rule.id}`, measure: rule.measure }]
        : [],
    ),
  );
}

const figure = (value: number): string =>
  Number.isInteger(value) ? String(value) : value.toPrecision(3).replace(/\.?0+$/, "");
