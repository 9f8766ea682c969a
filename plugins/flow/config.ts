/** A diffusers scheduler folder. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { WaverError, z } from "../index.ts";
import { SchedulerConfig } from "./schedule.ts";

/** Without a folder: a flow scheduler with every field at its default. */
export function readSchedulerConfig(folder: string | undefined): SchedulerConfig {
  if (folder === undefined) return SchedulerConfig.parse({ use_flow_sigmas: true });
  const path = join(folder, "scheduler_config.json");
  if (!existsSync(path)) throw new WaverError("checkpoint_missing", `${folder} holds no scheduler_config.json`);
  const parsed = SchedulerConfig.safeParse(parsePythonJson(readFileSync(path, "utf8"), path));
  if (parsed.success) return parsed.data;
  throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
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
