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
  const withVersions: Results = { ...results, versions: { waver: version, ...(await versions()) } };
  const root = resolve(request.output);
  const workSeconds = results.stages.reduce((sum, { seconds }) => sum + seconds, 0);
  const { verdict, description } = describe(withVersions, {
    isShort: request.profile === "test",
    createdAt: new Date().toISOString().slice(0, 16).replace("T", ", "),
    totalSeconds: workSeconds,
    cores: availableParallelism(),
  });
  const file = join(root, "results.json");
  await writeUnlessSame(file, description);
  const report = await ctx.run("report", { description: file, output: join(root, "report") });
  const reusedSteps = results.stages.filter(({ isReused }) => isReused).length + (report.reused ? 1 : 0);
  return {
    report: Reported.parse(report.output).page,
    verdict: verdict.headline,
    sentences: verdict.sentences,
    seconds: (performance.now() - started) / 1000,
    workSeconds,
    peakBytes: Math.max(...results.stages.map(({ peakBytes }) => peakBytes)),
    steps: results.stages.length + 1,
    reusedSteps,
  };
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
