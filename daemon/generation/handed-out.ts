/** Where a user finds what was made. */
import { chmod, copyFile, mkdir, rename } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { type Context, type Digest, WaverError } from "../../plugins/index.ts";
import type { Sample } from "./request.ts";

interface Asked extends Pick<Sample, "index" | "seed" | "prompt" | "asked"> {
  /** Results of the job. */
  readonly total: number;
  readonly output: string | undefined;
}

/** The published file under the name that was asked for; without one, where the store keeps it. */
export async function handedOut(
  digest: Digest,
  made: string,
  { index, seed, prompt, asked, total, output }: Asked,
  ctx: Context,
): Promise<string> {
  if (output === undefined) return ctx.store.path(digest);
  const ending = basename(made).slice(basename(made).indexOf("."));
  const isFile =
    extname(output) === ending || (total === 1 && extname(output) !== "" && ending.endsWith(".safetensors"));
  if (isFile && total > 1)
    throw new WaverError("invalid_input", `output names one file for ${total} results`, { hint: "give a folder" });
  const slug = (asked ?? prompt)
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 40);
  const target = isFile
    ? output.slice(0, output.length - extname(output).length) + ending
    : join(output, `${String(index).padStart(3, "0")}-${slug || "sample"}-${seed}${ending}`);
  await mkdir(dirname(target), { recursive: true });
  await copyFile(await ctx.store.path(digest), `${target}.tmp`);
  await chmod(`${target}.tmp`, 0o644); // what the store keeps is read-only, the user's copy is the user's
  await rename(`${target}.tmp`, target);
  return target;
}
