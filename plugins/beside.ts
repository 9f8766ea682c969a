/** Checkpoints that are a folder or a file of it: what may be read, and the configuration that lies beside the weights. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, extname, join } from "node:path";
import { z } from "zod";
import { WaverError } from "./errors.ts";

/** Refuses a path that holds no safetensors, in a sentence. `what` it should be, `where` it is in a pipeline's folder. */
export function needSafetensors(path: string, what: string, where: string): void {
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `there is no ${what} at ${path}`, {
      hint: `path takes a folder, for instance ${where}, or one .safetensors file`,
    });
  if (statSync(path).isDirectory() || path.endsWith(".safetensors") || path.endsWith(".index.json")) return;
  throw new WaverError(
    "checkpoint_invalid",
    `${path} is a ${extname(path) || "nameless"} file; a ${what} is read from safetensors`,
    { hint: "use its .safetensors file; `waver convert` makes one of a .pth, .pt or .bin file" },
  );
}

/**
 * The config.json of a folder by one of its schemas, the last of which says what is wrong; of a file the one beside it, where that
 * is this model's.
 */
export function statedBeside<S extends z.ZodType>(path: string, ...schemas: readonly S[]): z.output<S> | undefined {
  const isFolder = statSync(path).isDirectory();
  const file = join(isFolder ? path : dirname(path), "config.json");
  if (!existsSync(file)) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new WaverError("checkpoint_invalid", `${file} is not JSON`, { cause });
  }
  let error: z.ZodError | undefined;
  for (const schema of schemas) {
    const parsed = schema.safeParse(json);
    if (parsed.success) return parsed.data;
    error = parsed.error;
  }
  if (!isFolder || error === undefined) return undefined;
  throw new WaverError("checkpoint_invalid", `${file}: ${z.prettifyError(error)}`);
}
