/** Reading weights whose blocks come from the checkpoint for their turns: bytes over the rate at which its files can be read now. */
import { statSync } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Plan } from "./figures.ts";
import type { Pipeline } from "./pipeline.ts";

/** Stretches all over the files, others each time: a system keeps some of a file in memory, and what was read last most of all. */
const STRETCHES = 16;
const STRETCH = 2 ** 22;

/** Bytes a second, from the disk or from memory, wherever the files are; null where there are no weights. */
export async function readRate(path: string): Promise<number | null> {
  const files = statSync(path).isDirectory() ? (await readdir(path)).map((name) => join(path, name)) : [path];
  const weights = files.filter((name) => name.endsWith(".safetensors"));
  const into = Buffer.alloc(STRETCH);
  let [bytes, seconds] = [0, 0];
  for (const name of weights) {
    await using file = await open(name);
    const { size } = await file.stat();
    const count = Math.ceil(STRETCHES / weights.length);
    for (let i = 0; i < count; i++) {
      const from = Math.floor(((i + Math.random()) / count) * Math.max(0, size - STRETCH));
      const startedAt = performance.now();
      const { bytesRead } = await file.read(into, 0, STRETCH, from);
      seconds += (performance.now() - startedAt) / 1000;
      bytes += bytesRead;
    }
  }
  return bytes === 0 ? null : bytes / seconds;
}

/** The next block is read while one computes: a stage takes as long as the longer of the two. On a CPU; for other devices weights wait in memory. */
export async function withReading(plan: Plan, { family, family2, texts }: Pipeline): Promise<Plan> {
  if (plan.device !== "cpu") return plan;
  const paths = new Map([family, ...(family2 === undefined ? [] : [family2]), ...texts].map((c) => [c.name, c.path]));
  const rates = { ...plan.rates };
  const stages: Plan["stages"] = [];
  for (const stage of plan.stages) {
    const path = paths.get(stage.component);
    const rate = stage.readBytes === 0 || path === undefined ? null : await readRate(path);
    if (rate !== null) rates[`weights of ${stage.component} read GB/s`] = Math.round(rate / 1e8) / 10;
    stages.push(rate === null ? stage : { ...stage, seconds: Math.max(stage.seconds, stage.readBytes / rate) });
  }
  return { ...plan, rates, stages, seconds: stages.reduce((sum, { seconds }) => sum + seconds, 0) };
}
