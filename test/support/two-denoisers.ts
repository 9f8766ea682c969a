import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A copy of a pipeline with two denoisers, the second a copy of the first, which works below a flow time of 0.8. */
export function twoDenoisers(model: string, folder: string): string {
  cpSync(model, folder, { recursive: true });
  cpSync(join(model, "transformer"), join(folder, "transformer_2"), { recursive: true });
  const index = join(folder, "model_index.json");
  const json = JSON.parse(readFileSync(index, "utf8")) as Record<string, unknown>;
  rmSync(index); // golden cases are read-only
  writeFileSync(index, JSON.stringify({ ...json, transformer_2: json["transformer"], boundary_ratio: 0.8 }));
  return folder;
}
