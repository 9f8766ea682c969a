/** LoRAs made part of a checkpoint's weights. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint } from "../../native/index.ts";
import { type Context, type In, type Out, WaverError } from "../index.ts";
import { combine } from "./combine.ts";

export async function fuse(
  request: In<"merge">,
  options: {
    readonly lora: readonly { readonly path: string; readonly weight: number }[];
    readonly shardBytes: number;
  },
  ctx: Context,
): Promise<Out<"merge">> {
  const [checkpoint, ...others] = request.checkpoints;
  if (checkpoint === undefined || others.length > 0)
    throw new WaverError("invalid_input", `fuse takes one checkpoint, not ${request.checkpoints.length}`);
  const id = familyOf(checkpoint.path, ctx);
  // the network itself is only asked for its layers' names; the weights that are written come from the file
  const denoiser = await (await ctx.use("family", id, { path: checkpoint.path }))({});
  const reader = ctx.providers("adapt").find(({ traits }) => traits.formats.includes("lora"));
  if (reader === undefined) throw new WaverError("no_provider", "no installed plugin reads LoRA files");
  const adapters = await Promise.all(
    options.lora.map(async ({ path, weight }) => ({
      weight,
      adapter: await (await ctx.use("adapt", reader.id, { path }))({ denoiser }),
    })),
  );
  using file = openCheckpoint(checkpoint.path);
  const absent = adapters.flatMap(({ adapter }) => adapter.layers).find((layer) => !file.has(`${layer}.weight`));
  if (absent !== undefined)
    throw new WaverError(
      "checkpoint_mismatch",
      `${checkpoint.path} names its layers otherwise than the network: no ${absent}.weight`,
      {
        hint: "fuse takes a checkpoint in Diffusers' layout",
      },
    );
  return await combine(
    request,
    ([own], key) => adapters.reduce((value, { adapter, weight }) => adapter.fused(key, value, weight) ?? value, own!),
    options,
    ctx,
  );
}

function familyOf(folder: string, ctx: Context): string {
  const path = join(folder, "config.json");
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} holds no config.json`, {
      hint: "fuse takes the folder of a network, for instance MODEL/transformer",
    });
  const { _class_name: name } = JSON.parse(readFileSync(path, "utf8")) as { _class_name?: string };
  const found = ctx.providers("family").find(({ traits }) => name !== undefined && traits.classes.includes(name));
  if (found === undefined)
    throw new WaverError("no_provider", `no installed plugin loads ${name ?? "what is"} in ${folder}`);
  return found.id;
}
