/**
 * One checkpoint from several of one network, tensor by tensor, in less memory than one of them: inputs are mapped, outputs
 * are written shard by shard, and a shard is the unit at which a killed merge goes on.
 */
import { existsSync } from "node:fs";
import { copyFile, mkdir, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import {
  type Checkpoint,
  isFloating,
  noGrad,
  openCheckpoint,
  saveSafetensors,
  scope,
  type Tensor,
} from "../../native/index.ts";
import { type Context, type In, type Out, WaverError, z } from "../index.ts";

/** Diffusers' and Transformers' name of a weights file, without its ending. */
const STEM = /^(.+?)(?:-\d{5}-of-\d{5})?\.safetensors$/;

/** Makes one float32 tensor from the same one of every checkpoint, all float32 and borrowed. Runs inside a scope. */
export type Formula = (tensors: readonly Tensor[], key: string) => Tensor;

export async function combine(
  { checkpoints, output }: In<"merge">,
  formula: Formula,
  { shardBytes }: { readonly shardBytes: number },
  ctx: Pick<Context, "unit" | "breathe" | "progress">,
): Promise<Out<"merge">> {
  const folders = checkpoints.map(({ path }) => path);
  using files = new Files(folders);
  const first = files.all[0]!;
  for (const [i, file] of files.all.entries()) agree(first, file, folders[0]!, folders[i]!);

  await mkdir(output, { recursive: true });
  const shards = inShards(first, shardBytes);
  const stem =
    STEM.exec((await readdir(folders[0]!)).find((name) => STEM.test(name)) ?? "model.safetensors")?.[1] ?? "model";
  const nameOf = (i: number): string =>
    shards.length === 1 ? `${stem}.safetensors` : `${stem}-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
  for (const [i, keys] of shards.entries()) {
    await ctx.unit(`merge ${output} ${i}`, z.string(), async () => {
      writeShard(join(output, nameOf(i)), keys, files.all, formula);
      return nameOf(i);
    });
    ctx.progress(i + 1, shards.length, "merge");
    await ctx.breathe();
  }
  if (shards.length > 1) {
    const weight_map = Object.fromEntries(shards.flatMap((keys, i) => keys.map((key) => [key, nameOf(i)])));
    const total_size = first.keys.reduce((sum, key) => sum + first.info(key).bytes, 0);
    await Bun.write(
      join(output, `${stem}.safetensors.index.json`),
      JSON.stringify({ metadata: { total_size }, weight_map }, null, 2),
    );
  }
  for (const name of await readdir(folders[0]!))
    if (!name.includes(".safetensors") && !existsSync(join(output, name)))
      await copyFile(join(folders[0]!, name), join(output, basename(name)));
  return { path: output };
}

const number = (n: number): string => String(n).padStart(5, "0");

/** Results have the dtype of the first checkpoint; what is not floating is the first one's. */
function writeShard(path: string, keys: readonly string[], files: readonly Checkpoint[], formula: Formula): void {
  const first = files[0]!;
  scope(() =>
    noGrad(() => {
      const merged: Record<string, Tensor> = {};
      for (const key of keys) {
        const { dtype } = first.info(key);
        merged[key] = scope(() => {
          if (!isFloating(dtype)) return first.get(key).clone();
          const tensors = files.map((file) => file.get(key, { dtype: "float32" }));
          return formula(tensors, key).to({ dtype, copy: true });
        });
      }
      saveSafetensors(path, merged, { ...first.metadata });
    }),
  );
}

/** Keys in order, cut where a shard would grow past `shardBytes`. */
function inShards(file: Checkpoint, shardBytes: number): string[][] {
  const shards: string[][] = [[]];
  let bytes = 0;
  for (const key of file.keys) {
    const more = file.info(key).bytes;
    if (bytes > 0 && bytes + more > shardBytes) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)!.push(key);
    bytes += more;
  }
  return shards;
}

/** Throws, naming the first difference, unless both hold the same keys and shapes. */
function agree(a: Checkpoint, b: Checkpoint, pathA: string, pathB: string): void {
  const lacking = a.keys.find((key) => !b.has(key)) ?? b.keys.find((key) => !a.has(key));
  if (lacking !== undefined)
    throw new WaverError(
      "checkpoint_mismatch",
      `${a.has(lacking) ? pathB : pathA} has no ${lacking}, which the other checkpoint has`,
    );
  for (const key of a.keys) {
    const [x, y] = [a.info(key), b.info(key)];
    if (x.shape.join() !== y.shape.join())
      throw new WaverError("checkpoint_mismatch", `${key} is [${x.shape}] in ${pathA} and [${y.shape}] in ${pathB}`);
  }
}

class Files implements Disposable {
  readonly all: Checkpoint[] = [];

  constructor(folders: readonly string[]) {
    try {
      for (const folder of folders) this.all.push(openCheckpoint(folder));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const file of this.all) file.dispose();
  }
}
