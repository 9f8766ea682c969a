/** A diffusers scheduler folder. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { WaverError, z } from "../index.ts";
import { SchedulerConfig } from "./schedule.ts";

/** Of a folder, or what is given in its place; without either a flow scheduler with every field at its default. */
export function readSchedulerConfig(
  folder: string | undefined,
  config?: Readonly<Record<string, unknown>>,
): SchedulerConfig {
  if (config !== undefined) return parsed(config, "config");
  if (folder === undefined) return SchedulerConfig.parse({ use_flow_sigmas: true });
  const path = join(folder, "scheduler_config.json");
  if (!existsSync(path)) throw new WaverError("checkpoint_missing", `${folder} holds no scheduler_config.json`);
  return parsed(parsePythonJson(readFileSync(path, "utf8"), path), path);
}

function parsed(config: unknown, path: string): SchedulerConfig {
  const result = SchedulerConfig.safeParse(config);
  if (result.success) return result.data;
  throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(result.error)}`);
}

/** Python writes numbers that JSON has not (`-Infinity` in DPM-Solver's lambda_min_clipped); no field read here takes one. */
function parsePythonJson(text: string, path: string): unknown {
  const strict = text.replaceAll(
    /("(?:[^"\\]|\\.)*")|-?\bInfinity\b|\bNaN\b/g,
    (_, quoted: string | undefined) => quoted ?? "null",
  );
  try {
    return JSON.parse(strict);
  } catch (cause) {
    throw new WaverError("checkpoint_invalid", `${path} is not JSON`, { cause });
  }
}
