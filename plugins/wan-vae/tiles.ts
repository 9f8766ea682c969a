/**
 * Tiles: a large picture is coded in overlapping squares that are blended at their borders, so that memory follows the tile.
 * The result differs visibly from the whole at tile borders; sizes and order of blending are diffusers'.
 */
import { cat, scope, type Tensor, tensor } from "../../native/index.ts";

/** In pixels. Neighbouring tiles start `stride` apart and overlap by size - stride. */
export interface Tiling {
  readonly size: readonly [number, number];
  readonly stride: readonly [number, number];
}

interface Grid {
  readonly size: readonly [number, number];
  readonly stride: readonly [number, number];
}

/** Tiles of x [B C T H W] through `run`, joined: `into` is the same grid on the other side of the codec. */
function tiled(x: Tensor, from: Grid, into: Grid, run: (tile: Tensor) => Tensor): Tensor {
  const [rows, columns] = x.shape.slice(-2) as [number, number];
  if (rows <= from.size[0] && columns <= from.size[1]) return run(x);
  const overlap = [into.size[0] - into.stride[0], into.size[1] - into.stride[1]] as const;
  const joined: Tensor[] = [];
  let above: readonly Tensor[] = [];
  for (let i = 0; i < rows; i += from.stride[0]) {
    const row: Tensor[] = [];
    for (let j = 0; j < columns; j += from.stride[1])
      row.push(
        scope(() => {
          const made = run(
            x.slice(3, i, Math.min(rows, i + from.size[0])).slice(4, j, Math.min(columns, j + from.size[1])),
          );
          // a neighbour has been blended with its own neighbours by the time it is blended in here
          const below = i === 0 ? made : blend(above[row.length] as Tensor, made, overlap[0], 3);
          return j === 0 ? below : blend(row.at(-1) as Tensor, below, overlap[1], 4);
        }),
      );
    joined.push(
      scope(() =>
        cat(
          row.map((tile) => kept(tile, into)),
          4,
        ),
      ),
    );
    for (const tile of above) tile.dispose();
    above = row;
  }
  for (const tile of above) tile.dispose();
  return cat(joined, 3);
}

/** A tile up to where the next one takes over. */
const kept = (tile: Tensor, { stride: [rows, columns] }: Grid): Tensor =>
  tile.slice(3, 0, Math.min(tile.size(3), rows)).slice(4, 0, Math.min(tile.size(4), columns));

/** Fades from the last `extent` lines of `before` into the first of `x` along `dim`. */
function blend(before: Tensor, x: Tensor, extent: number, dim: 3 | 4): Tensor {
  const n = Math.min(before.size(dim), x.size(dim), extent);
  if (n === 0) return x;
  const ramp = tensor(
    Array.from({ length: n }, (_, i) => i / n),
    { device: x.device, dtype: x.dtype },
  ).view(dim === 3 ? [n, 1] : [n]);
  const fadeOut = before.narrow(dim, before.size(dim) - n, n).mul(ramp.neg().add(1));
  const fadeIn = x.narrow(dim, 0, n).mul(ramp);
  return cat([fadeOut.add(fadeIn), x.narrow(dim, n, x.size(dim) - n)], dim);
}

const divided = (tiling: Tiling, stride: readonly [number, number, number]): Grid => ({
  size: [Math.floor(tiling.size[0] / stride[1]), Math.floor(tiling.size[1] / stride[2])],
  stride: [Math.floor(tiling.stride[0] / stride[1]), Math.floor(tiling.stride[1] / stride[2])],
});

export const tiledEncode = (
  tiling: Tiling | undefined,
  video: Tensor,
  stride: readonly [number, number, number],
  run: (tile: Tensor) => Tensor,
): Tensor => (tiling === undefined ? run(video) : tiled(video, tiling, divided(tiling, stride), run));

export const tiledDecode = (
  tiling: Tiling | undefined,
  latents: Tensor,
  stride: readonly [number, number, number],
  run: (tile: Tensor) => Tensor,
): Tensor => (tiling === undefined ? run(latents) : tiled(latents, divided(tiling, stride), tiling, run));
