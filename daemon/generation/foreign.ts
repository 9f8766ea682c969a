/**
 * Models in layouts that are not Diffusers': a plugin that knows one says what pipeline it stands for (hook `layout`). Parts in
 * torch's own format, which can carry code, are converted as data, once; the store keeps what became of them.
 */
import { basename, extname } from "node:path";
import { z } from "zod";
import { type Context, type ForeignModel, WaverError } from "../../plugins/index.ts";

const TORCH = new Set([".pth", ".pt", ".bin", ".ckpt"]);
const Converted = z.object({ path: z.string() });

/** What the first plugin that knows a layout says of it; null when none does. */
export async function readForeign(path: string, ctx: Context): Promise<ForeignModel | null> {
  for (const { id } of ctx.providers("layout")) {
    using read = await ctx.use("layout", id);
    const found = await read({ path });
    if (found === null) continue;
    ctx.log("layout_recognised", { layout: id, model: path });
    return found;
  }
  return null;
}

/** Where the components lie that are needed, every one readable. */
export async function placesOf(
  { components }: ForeignModel,
  isNeeded: (name: string) => boolean,
  converts: boolean,
  ctx: Context,
): Promise<Record<string, { path?: string; options: Record<string, unknown> }>> {
  const places: Record<string, { path?: string; options: Record<string, unknown> }> = {};
  for (const [name, { path, options }] of Object.entries(components)) {
    if (path === undefined || !isNeeded(name) || !TORCH.has(extname(path))) {
      places[name] = { ...(path === undefined ? {} : { path }), options };
      continue;
    }
    if (!converts)
      throw new WaverError(
        "needs_unmet",
        `${basename(path)} is in torch's own format, which is not read before it is converted`,
        {
          hint: `\`waver generate\` converts it once; or: waver convert ${path}`,
        },
      );
    const { output, reused } = await ctx.run("convert", { file: path, keep: true });
    const { path: kept } = Converted.parse(output);
    ctx.log("checkpoint_converted", { component: name, file: path, kept, reused });
    places[name] = { path: kept, options };
  }
  return places;
}
