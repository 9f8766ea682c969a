/** Pictures that are coded in overlapping tiles, because whole ones would not fit or because the request says so. */
import { z } from "zod";
import { type Context, takes, WaverError } from "../../plugins/index.ts";
import type { Pipeline } from "./pipeline.ts";
import type { Size } from "./request.ts";

/** Tiles start three quarters of a side apart, in whole latent elements of every codec there is. */
const UNIT = 64;
/** What is tried, the largest first: the fewer borders, the better the picture. */
const SIDES = [512, 384, 256, 192, 128, 64];

export const TileSize = z.int().nonnegative().multipleOf(UNIT, `a multiple of ${UNIT}, or 0 for none`).optional().meta({
  description:
    "side of the overlapping tiles in which frames are coded, in pixels, 0 for none; when absent, tiles where whole frames do not fit the memory budget: their borders can be seen",
});

const canTile = ({ codec }: Pipeline, ctx: Context): boolean => takes("codec", codec.id, "tiling", ctx);

/** Sides to try where memory is short: those that cut this picture. */
export const sidesFor = (model: Pipeline, { width, height }: Size, ctx: Context): number[] =>
  canTile(model, ctx) ? SIDES.filter((side) => side < Math.max(width, height)) : [];

/** The pipeline with a codec that works in tiles of this side; null and 0 leave it whole. */
export function inTiles(model: Pipeline, side: number | null, ctx: Context): Pipeline {
  if (side === null || side === 0) return model;
  if (!canTile(model, ctx))
    throw new WaverError("invalid_input", `tileSize: ${model.codec.id} codes whole frames only`, {
      hint: "leave tileSize out",
    });
  const tiling = { size: [side, side], stride: [(3 * side) / 4, (3 * side) / 4] };
  return { ...model, codec: { ...model.codec, options: { ...model.codec.options, tiling } } };
}
