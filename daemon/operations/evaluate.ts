/** Judges generated clips by every chosen evaluator and publishes what they found, with its lineage. */
import { readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import { version } from "../../package.json";
import {
  type Context,
  Digest,
  defineOperation,
  EvalSet,
  Evaluation,
  type Pick,
  type Picks,
  WaverError,
} from "../../plugins/index.ts";

const input = z.strictObject({
  set: z.string().optional().meta({
    description: "JSON file with the clips to judge and the training clips; paths start at its folder",
    format: "path",
  }),
  items: EvalSet.shape.items.optional().meta({ description: "clips to judge, in place of a file" }),
  references: EvalSet.shape.references.optional().meta({ description: "training clips, in place of a file" }),
  model: Digest.optional().meta({ description: "artefact that made the clips, for the lineage" }),
});
type Input = z.output<typeof input>;

const output = z.object({
  evaluation: Digest,
  /** The published JSON: `{ set, results }`. */
  path: z.string(),
  /** What each evaluator found, by its id. */
  results: z.record(z.string(), Evaluation),
});

export const evaluate = defineOperation({
  kind: "job",
  summary: "judges generated clips: nearest training clip, fidelity, motion, and whatever evaluators are installed",
  runs: "device",
  input,
  output,
  slots: { evaluators: { hook: "evaluate", many: true, summary: "what judges the clips", default: [{ id: "clips" }] } },
  reads: (request) => readsOf(request),
  writes: ({ path }) => [path],
  examples: ["waver evaluate --set results/set.json", "waver evaluate --set results/set.json --evaluators clips"],
  run: judge,
});

async function judge(request: Input, { evaluators }: Picks, ctx: Context): Promise<z.output<typeof output>> {
  const set = await setOf(request);
  if (set.items.length === 0)
    throw new WaverError("invalid_input", "there is nothing to evaluate: the set has no items");
  assertDistinct(set);
  const picks = evaluators as readonly Pick[];
  const results: Record<string, Evaluation> = {};
  for (const [i, { id, ...options }] of picks.entries()) {
    if (id in results) throw new WaverError("invalid_input", `the evaluator ${id} was chosen twice`);
    using run = await ctx.use("evaluate", id, options);
    results[id] = await run(set);
    ctx.progress(i + 1, picks.length, "evaluators");
    await ctx.breathe();
  }
  const file = join(ctx.workDir, "evaluation.json");
  await writeFile(file, `${JSON.stringify({ set, results }, null, 1)}\n`);
  const inputs = [...new Set(set.items.map(({ video }) => video))];
  const evaluation = await ctx.store.publish(file, {
    kind: "evaluation",
    inputs: [
      ...(request.model ? [{ role: "model", digest: request.model }] : []),
      ...(await Promise.all(
        inputs.map(async (path) => ({ role: "video", digest: await fileDigest(path, ctx.signal) })),
      )),
    ],
    by: { operation: "evaluate", version },
    options: { evaluators: picks, numItems: set.items.length, numReferences: set.references.length },
  });
  return { evaluation, path: await ctx.store.path(evaluation), results };
}

/** The set that was asked for, with absolute paths. */
async function setOf({ set: file, items, references }: Input): Promise<EvalSet> {
  if ((file === undefined) === (items === undefined)) {
    throw new WaverError("invalid_input", "give either a set file or items", {
      hint: "waver evaluate --set results/set.json",
    });
  }
  if (file === undefined) return placed({ items: items ?? [], references: references ?? [] }, process.cwd());
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new WaverError("not_found", `no such set: ${file}`, { cause });
  }
  const parsed = EvalSet.safeParse(jsonOf(text));
  if (parsed.success) return placed(parsed.data, dirname(resolve(file)));
  const issue = parsed.error.issues[0];
  throw new WaverError(
    "invalid_input",
    `${file} is not a set of clips to judge: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? ""}`,
    {
      hint: 'it looks like {"items": [{"id", "video", "prompt", "task"}], "references": [{"id", "video", "caption"}]}',
    },
  );
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function placed({ items, references }: EvalSet, base: string): EvalSet {
  const at = (path: string): string => (isAbsolute(path) ? path : resolve(base, path));
  return {
    items: items.map((item) => ({
      ...item,
      video: at(item.video),
      ...(item.reference === undefined ? {} : { reference: at(item.reference) }),
      ...(item.image === undefined ? {} : { image: at(item.image) }),
    })),
    references: references.map((reference) => ({ ...reference, video: at(reference.video) })),
  };
}

/** Results are keyed by id: two items of one id would hide each other. */
function assertDistinct({ items }: EvalSet): void {
  const seen = new Set<string>();
  for (const { id } of items) {
    if (seen.has(id)) throw new WaverError("invalid_input", `two items of the set are called ${id}`);
    seen.add(id);
  }
}

/** Every file that decides the result; asked before the job starts, so a set that cannot be read is left to `run`. */
function readsOf({ set: file, items, references }: Input): string[] {
  let set: EvalSet = { items: items ?? [], references: references ?? [] };
  let base = process.cwd();
  if (file !== undefined) {
    base = dirname(resolve(file));
    try {
      set = EvalSet.parse(JSON.parse(readFileSync(file, "utf8")));
    } catch {
      return [file];
    }
  }
  const { items: judged, references: known } = placed(set, base);
  return [
    ...(file === undefined ? [] : [file]),
    ...judged.flatMap(({ video, reference, image }) => [video, reference, image]),
    ...known.map(({ video }) => video),
  ].filter((path): path is string => path !== undefined);
}

async function fileDigest(path: string, signal: AbortSignal): Promise<Digest> {
  signal.throwIfAborted();
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(path).stream()) hasher.update(chunk);
  return Digest.parse(`sha256:${hasher.digest("hex")}`);
}
