/** The quick start as one job: the chain, then its results as a page. */
import { existsSync } from "node:fs";
import { readFile, rename, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { type Context, z } from "../index.ts";
import { type Request, runChain } from "./chain.ts";
import { describe } from "./describe.ts";
import type { Results } from "./results.ts";

export interface Answer {
  readonly report: string;
  readonly verdict: string;
  readonly sentences: string[];
  /** Seconds that this run took, and that the work took when it was done. */
  readonly seconds: number;
  readonly workSeconds: number;
  readonly peakBytes: number;
  /** Steps done by this run, and steps whose earlier result was used. */
  readonly steps: number;
  readonly reusedSteps: number;
}

const Reported = z.object({ page: z.string() });

export async function runQuickstart(request: Request, version: string, ctx: Context): Promise<Answer> {
  const started = performance.now();
  const results = await runChain(request, ctx);
  const root = resolve(request.output);
  const file = join(root, "results.json");
  const earlier = await earlierStages(file);
  // A reused child cost nothing now; what it cost when it was done is in the last description.
  const stages = results.stages.map((stage) => ({
    ...stage,
    seconds: stage.isReused ? (earlier.get(stage.name) ?? stage.seconds) : stage.seconds,
  }));
  const workSeconds = stages.reduce((sum, { seconds }) => sum + seconds, 0);
  const told: Results = { ...results, stages, versions: { waver: version, ...(await versions()) } };
  const { verdict, description } = describe(told, {
    isShort: request.profile === "test",
    createdAt: new Date().toISOString().slice(0, 16).replace("T", ", "),
    totalSeconds: workSeconds,
    cores: availableParallelism(),
  });
  await writeUnlessSame(file, description);
  const report = await ctx.run("report", { description: file, output: join(root, "report") });
  const steps = stages.length + 1;
  const reusedSteps = stages.filter(({ isReused }) => isReused).length + (report.reused ? 1 : 0);
  return {
    report: Reported.parse(report.output).page,
    verdict: verdict.headline,
    sentences: [
      ...verdict.sentences,
      ...(reusedSteps === steps ? [`Nothing had changed: all ${steps} steps were reused.`] : []),
    ],
    seconds: (performance.now() - started) / 1000,
    workSeconds,
    peakBytes: Math.max(...stages.map(({ peakBytes }) => peakBytes)),
    steps,
    reusedSteps,
  };
}

const Earlier = z.object({ stages: z.array(z.object({ name: z.string(), seconds: z.number() })) });

/** Seconds of each stage as the last run told them. */
async function earlierStages(file: string): Promise<Map<string, number>> {
  if (!existsSync(file)) return new Map();
  const parsed = Earlier.safeParse(JSON.parse(await readFile(file, "utf8")));
  return new Map((parsed.data?.stages ?? []).map(({ name, seconds }) => [name, seconds]));
}

/** A run that only found earlier results tells the same story: its description, and so its page, stays as it was. */
async function writeUnlessSame(file: string, description: Record<string, unknown>): Promise<void> {
  if (existsSync(file) && lasting(JSON.parse(await readFile(file, "utf8"))) === lasting(description)) return;
  await writeFile(`${file}.tmp`, `${JSON.stringify(description, null, 1)}\n`);
  await rename(`${file}.tmp`, file);
}

/** What does not change from one look at the same results to the next. */
function lasting(description: Record<string, unknown>): string {
  const { createdAt, totalSeconds, stages, figures, ...rest } = description;
  return JSON.stringify(rest);
}

const Build = z.object({ version: z.string() });

/** Versions that results depend on. */
async function versions(): Promise<Record<string, string>> {
  const build = join(import.meta.dir, "../../native/build/build.json");
  const engine = existsSync(build) ? Build.safeParse(JSON.parse(await readFile(build, "utf8"))).data : undefined;
  return {
    bun: Bun.version,
    ...(engine ? { libtorch: engine.version } : {}),
    platform: `${process.platform} ${process.arch}`,
  };
}
