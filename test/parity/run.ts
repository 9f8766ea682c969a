/**
 * `npm run parity -- DIR... [--tap] [--only NAME]`: holds the system to stored outputs of the reference implementations.
 *
 * Every folder with a `case.json` under the folders given is one case. A case passes only when each output named in its
 * tolerance was produced and lies within that tolerance; one with outputs that nothing produces is `unknown`. The figure
 * is the worst ratio of an error to its own tolerance, so the tolerance in that unit is 1.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { liveTensors, setThreads, Tensor } from "../../native/index.ts";
import type { ParityCase, Produce, Value } from "./case.ts";
import { compare, compareJson, type Verdict } from "./compare.ts";
import { Golden, type NdArray } from "./golden.ts";

/** Every `cases/<name>.ts`, by file listing: a new case is a new file and no other edit. */
async function loadCases(): Promise<Map<string, ParityCase>> {
  const known = new Map<string, ParityCase>();
  const folder = join(import.meta.dir, "cases");
  for (const file of readdirSync(folder)
    .filter((name) => name.endsWith(".ts"))
    .sort()) {
    const { default: definition } = (await import(join(folder, file))) as { default: ParityCase };
    for (const name of definition.cases) {
      if (known.has(name)) throw new Error(`two files in test/parity/cases claim ${name}`);
      known.set(name, definition);
    }
  }
  return known;
}

/** Case folders at or below `root`, in order of path. */
function findCases(root: string): string[] {
  if (existsSync(join(root, "case.json"))) return [root];
  return readdirSync(root)
    .sort()
    .map((name) => join(root, name))
    .filter((path) => statSync(path).isDirectory())
    .flatMap(findCases);
}

/** The implementation for a case: by its name, else by the longest known name that begins it (`vae_wan-seed7`). */
function implementation(known: ReadonlyMap<string, ParityCase>, name: string): ParityCase | undefined {
  const exact = known.get(name);
  if (exact !== undefined) return exact;
  const prefixes = [...known.keys()].filter(
    (candidate) => name.startsWith(candidate) && /^[-_.@]/.test(name.slice(candidate.length)),
  );
  const longest = prefixes.sort((a, b) => b.length - a.length)[0];
  return longest === undefined ? undefined : known.get(longest);
}

const plain = (value: Value): NdArray =>
  value instanceof Tensor ? { shape: value.shape, data: toNumbers(value) } : value;
/** 64-bit integers as numbers: golden ones are small. */
const toNumbers = (value: Tensor): ArrayLike<number> => {
  const array = value.toArray();
  return array instanceof BigInt64Array || array instanceof BigUint64Array ? Array.from(array, Number) : array;
};

interface Outcome {
  readonly state: "pass" | "fail" | "unknown";
  /** In the order in which the values arose. */
  readonly verdicts: readonly Verdict[];
  readonly missing: readonly string[];
  readonly error?: string;
}

async function check(golden: Golden, definition: ParityCase | undefined): Promise<Outcome> {
  if (definition === undefined) return { state: "unknown", verdicts: [], missing: golden.outputs };
  const verdicts: Verdict[] = [];
  const seen = new Set<string>();
  const note = (verdict: Verdict): void => {
    if (!seen.has(verdict.name)) verdicts.push(verdict);
    seen.add(verdict.name);
  };
  const produce: Produce = Object.assign(
    (name: string, value: Value): void => {
      const tolerance = golden.tolerance.get(name);
      if (tolerance !== undefined) note(compare(name, plain(value), golden.reference(name), tolerance));
    },
    {
      json: (name: string, value: unknown, abs?: number): void => {
        if (golden.expected !== undefined && name in golden.expected)
          note(compareJson(name, value, golden.expected[name], abs));
      },
    },
  );
  const before = liveTensors();
  try {
    await definition.run(golden, produce);
  } catch (error) {
    return {
      state: "fail",
      verdicts,
      missing: [],
      error: error instanceof Error ? (error.stack ?? error.message) : String(error),
    };
  }
  const leaked = liveTensors() - before;
  if (leaked > 0) return { state: "fail", verdicts, missing: [], error: `${leaked} tensors were never disposed` };
  const missing = golden.outputs.filter((name) => !seen.has(name));
  if (verdicts.some((verdict) => !(verdict.ratio <= 1))) return { state: "fail", verdicts, missing };
  return { state: missing.length > 0 || verdicts.length === 0 ? "unknown" : "pass", verdicts, missing };
}

const worstOf = (verdicts: readonly Verdict[]): Verdict | undefined =>
  verdicts.reduce<Verdict | undefined>(
    (worst, verdict) => (worst === undefined || !(verdict.ratio <= worst.ratio) ? verdict : worst),
    undefined,
  );

function report(name: string, outcome: Outcome, showTap: boolean): void {
  const worst = worstOf(outcome.verdicts);
  const figure = worst === undefined ? "-" : worst.ratio.toPrecision(3);
  const detail: string[] = [];
  if (worst !== undefined) detail.push(`${outcome.verdicts.length} outputs, worst ${worst.name}: ${worst.figure}`);
  if (outcome.missing.length > 0) detail.push(`not produced: ${outcome.missing.join(" ")}`);
  console.log(`${outcome.state} ${name} ${figure} 1${detail.length === 0 ? "" : `  ${detail.join("; ")}`}`);
  if (outcome.error !== undefined) console.log(`  ${outcome.error}`);
  if (!showTap || outcome.state === "pass") return;
  const first = outcome.verdicts.findIndex((verdict) => !(verdict.ratio <= 1));
  if (first < 0) return;
  const before = outcome.verdicts[first - 1];
  const diverged = outcome.verdicts[first] as Verdict;
  console.log(
    `  first to diverge: ${diverged.name}: ${diverged.figure} (${diverged.ratio.toPrecision(3)} times its tolerance)`,
  );
  if (before !== undefined)
    console.log(`  last to agree:    ${before.name}: ${before.figure} (${before.ratio.toPrecision(3)})`);
}

const { values, positionals } = parseArgs({
  args: process.argv.slice(2),
  allowPositionals: true,
  options: { tap: { type: "boolean", default: false }, only: { type: "string", multiple: true } },
});
const roots = positionals.length > 0 ? positionals : [join(import.meta.dir, "../golden")];
const absent = roots.find((root) => !existsSync(root));
if (absent !== undefined) {
  console.error(`${absent} is not there: give one or more folders with golden cases`);
  process.exit(2);
}
setThreads(1); // as the stored values were made
const known = await loadCases();
const count = { pass: 0, fail: 0, unknown: 0 };
for (const folder of roots.map((root) => resolve(root)).flatMap(findCases)) {
  const golden = new Golden(folder);
  if (values.only !== undefined && !values.only.includes(golden.name)) continue;
  const outcome = await check(golden, implementation(known, golden.name));
  count[outcome.state]++;
  report(golden.name, outcome, values.tap);
}
if (count.unknown > 0) console.log(`${count.unknown} unknown`);
console.log(`${count.pass} passed, ${count.fail} failed`);
process.exit(count.fail > 0 ? 1 : 0);
