/** Checkpoints in torch's own format, which can carry code, made safe to read: as data, in a process that owns nothing, once. */
import { existsSync, mkdirSync } from "node:fs";
import { basename, extname, join, resolve } from "node:path";
import { version } from "../../package.json";
import { convertInChild } from "../../plugins/converter.ts";
import { type Context, Digest, defineOperation, WaverError, z } from "../../plugins/index.ts";
import { fileDigest } from "../generation/digest.ts";

export const convert = defineOperation({
  kind: "job",
  summary: "makes a safetensors file of a .pth, .pt or .bin checkpoint, without running anything in it",
  runs: "worker",
  input: z.strictObject({
    file: z.string().meta({ description: "the checkpoint", format: "path", positional: 0 }),
    output: z.string().optional().meta({
      description: "the safetensors file; beside the checkpoint, by its name, when absent",
      format: "path",
    }),
    keep: z.boolean().default(false).meta({
      description: "into the store instead, where it is found again as long as the checkpoint is the same",
    }),
  }),
  output: z.object({ path: z.string(), numTensors: z.int(), bytes: z.int() }),
  slots: {},
  reads: ({ file }) => [file],
  writes: ({ path }) => [path],
  examples: ["waver convert model.pth", "waver convert pytorch_model.bin --output model.safetensors"],
  async run({ file, output, keep }, _, ctx) {
    const source = resolve(file);
    if (keep && output !== undefined)
      throw new WaverError(
        "invalid_input",
        "keep puts the file into the store, and output elsewhere: give one of them",
      );
    if (keep) return kept(source, ctx);
    const target = resolve(output ?? `${source.slice(0, source.length - extname(source).length)}.safetensors`);
    if (extname(target) !== ".safetensors")
      throw new WaverError("invalid_input", `output must end in .safetensors, and ${target} does not`);
    await ctx.unit("target is free", z.object({}), async () => {
      if (existsSync(target))
        throw new WaverError("conflict", `${target} exists already`, { hint: "give another --output, or remove it" });
      return {};
    });
    return { path: target, ...(await ctx.unit("converted", Made, () => convertInChild(source, target, ctx.signal))) };
  },
});

const Made = z.object({ numTensors: z.int(), bytes: z.int() });

/** The converted file as an artefact: a folder, so that its name tells its format. */
async function kept(source: string, ctx: Context): Promise<z.output<typeof Made> & { path: string }> {
  const name = "model.safetensors";
  const folder = join(ctx.workDir, `converted ${basename(source)}`);
  const made = await ctx.unit(`converted ${basename(source)}`, Made, async () => {
    mkdirSync(folder, { recursive: true });
    return convertInChild(source, join(folder, name), ctx.signal);
  });
  const digest = await ctx.unit(`kept ${basename(source)}`, z.string(), async () =>
    ctx.store.publish(
      folder,
      {
        kind: "checkpoint",
        inputs: [{ role: "source", digest: await fileDigest(source, ctx) }],
        by: { operation: "convert", version },
        options: { file: basename(source) },
      },
      { move: true },
    ),
  );
  return { path: join(await ctx.store.path(Digest.parse(digest)), name), ...made };
}
