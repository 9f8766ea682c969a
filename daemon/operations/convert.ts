/** Checkpoints in torch's own format, which can carry code, made safe to read: as data, in a process that owns nothing, once. */
import { existsSync } from "node:fs";
import { extname, resolve } from "node:path";
import { convertInChild } from "../../plugins/converter.ts";
import { defineOperation, WaverError, z } from "../../plugins/index.ts";

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
  }),
  output: z.object({ path: z.string(), numTensors: z.int(), bytes: z.int() }),
  slots: {},
  reads: ({ file }) => [file],
  writes: ({ path }) => [path],
  examples: ["waver convert model.pth", "waver convert pytorch_model.bin --output model.safetensors"],
  async run({ file, output }, _, ctx) {
    const source = resolve(file);
    const target = resolve(output ?? `${source.slice(0, source.length - extname(source).length)}.safetensors`);
    if (extname(target) !== ".safetensors")
      throw new WaverError("invalid_input", `output must end in .safetensors, and ${target} does not`);
    await ctx.unit("target is free", z.object({}), async () => {
      if (existsSync(target))
        throw new WaverError("conflict", `${target} exists already`, { hint: "give another --output, or remove it" });
      return {};
    });
    const made = z.object({ numTensors: z.int(), bytes: z.int() });
    return { path: target, ...(await ctx.unit("converted", made, () => convertInChild(source, target, ctx.signal))) };
  },
});
