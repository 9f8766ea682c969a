/**
 * Tiles: a large picture is coded in overlapping squares that are blended at their borders, so that memory follows the tile.
 * The result differs visibly from the whole at tile borders; sizes and order of blending are diffusers'.
 */
import { cat, keep, scope, type Tensor, tensor, zeros } from "../../native/index.ts";
import type { ChunkDecoder } from "../index.ts";

/** In pixels. Neighbouring tiles start `stride` apart and overlap by size - stride. */
export interface Tiling {
  readonly size: readonly [number, number];
  readonly stride: readonly [number, number];
}

interface Grid {
  readonly size: readonly [number, number];
  readonly stride: readonly [number, number];
}

/**
 * The tiles of one picture x [B C T H W], from left to right and from top to bottom; `into` is the same grid on the other side
 * of the codec. Owns of those that are there what the others and the whole still need.
 */
export class Mosaic implements Disposable {
  readonly #x: Tensor;
  readonly #from: Grid;
  readonly #into: Grid;
  /** Of rows that are done: what the whole takes of them, and the last lines of the last one, tile by tile. */
  readonly #rows: Tensor[] = [];
  #above: Tensor[] = [];
  /** Tiles of the row under way, whole. */
  #row: Tensor[] = [];

  /** `memory` is that of another one of the same picture and grids; borrowed, as is x. */
  constructor(x: Tensor, [from, into]: readonly [Grid, Grid], memory: Readonly<Record<string, Tensor>> = {}) {
    [this.#x, this.#from, this.#into] = [x, from, into];
    for (const [name, tiles] of Object.entries(this.#parts()))
      for (let i = 0; memory[`${name}.${i}`] !== undefined; i++)
        tiles.push(keep(scope(() => (memory[`${name}.${i}`] as Tensor).to({ device: x.device }).detach())));
  }

  #parts(): Record<string, Tensor[]> {
    return { rows: this.#rows, above: this.#above, row: this.#row };
  }

  /** What one needs to go on from here; borrowed, until the next `add`. */
  memory(): Record<string, Tensor> {
    return Object.fromEntries(
      Object.entries(this.#parts()).flatMap(([name, tiles]) => tiles.map((tile, i) => [`${name}.${i}`, tile])),
    );
  }

  /** The next tile of x, as a view; undefined when none is left. */
  tile(): Tensor | undefined {
    const { size, stride } = this.#from;
    const [rows, columns] = this.#x.shape.slice(-2) as [number, number];
    const [i, j] = [this.#rows.length * stride[0], this.#row.length * stride[1]];
    if (i >= rows) return undefined;
    return scope(() => this.#x.slice(3, i, Math.min(rows, i + size[0])).slice(4, j, Math.min(columns, j + size[1])));
  }

  /** What became of the next tile; taken over. */
  add(made: Tensor): void {
    const { size, stride } = this.#into;
    const [down, across] = [size[0] - stride[0], size[1] - stride[1]];
    const above = this.#above[this.#row.length];
    const left = this.#row.at(-1);
    const blended = scope(() => {
      // a neighbour has been blended with its own neighbours by the time it is blended in here
      const below = above === undefined ? made : blend(above, made, down, 3);
      return left === undefined ? below : blend(left, below, across, 4);
    });
    if (blended !== made) made.dispose();
    this.#row.push(keep(blended));
    if (this.#row.length * this.#from.stride[1] < this.#x.size(4)) return;
    for (const tile of this.#above) tile.dispose();
    const row = this.#row;
    this.#above = row.map((tile) => {
      const lines = Math.min(tile.size(3), down);
      return keep(scope(() => tile.narrow(3, tile.size(3) - lines, lines).clone()));
    });
    this.#rows.push(
      keep(
        scope(() =>
          cat(
            row.map((tile) => kept(tile, this.#into)),
            4,
          ),
        ),
      ),
    );
    for (const tile of row) tile.dispose();
    this.#row = [];
  }

  /** Of the whole, when all tiles are there. */
  get numFrames(): number {
    return (this.#rows[0] as Tensor).size(2);
  }

  /** Some frames of the whole, when all tiles are there; all of them when it is not said which. */
  frames(from = 0, count?: number): Tensor {
    return scope(() =>
      cat(
        this.#rows.map((row) => row.narrow(2, from, count ?? row.size(2) - from)),
        3,
      ),
    );
  }

  [Symbol.dispose](): void {
    for (const tile of [...this.#rows, ...this.#above, ...this.#row]) tile.dispose();
  }
}

/**
 * A decode of latents z in tiles, each in parts. Frames come when all tiles are there, one and then as many at a time as a latent
 * frame stands for; until then each part gives a chunk without frames. It can be left after a tile, not within one.
 */
export function tileDecoder(
  z: Tensor,
  grids: readonly [Grid, Grid],
  stride: readonly [number, number, number],
  decode: (tile: Tensor) => Iterable<Tensor>,
  memory?: Readonly<Record<string, Tensor>>,
): ChunkDecoder {
  const mosaic = new Mosaic(z, grids, memory);
  const nothing = (): Tensor =>
    zeros([z.size(0), 3, 0, z.size(3) * stride[1], z.size(4) * stride[2]], { dtype: z.dtype, device: z.device });
  let canLeave = false;
  function* chunks(): Generator<Tensor> {
    for (let next = mosaic.tile(); next !== undefined; next = mosaic.tile()) {
      using tile = keep(next);
      const parts: Tensor[] = [];
      canLeave = false;
      try {
        for (const part of decode(tile)) {
          parts.push(keep(part));
          yield nothing();
        }
        mosaic.add(keep(cat(parts, 2)));
      } finally {
        for (const part of parts) part.dispose();
      }
      canLeave = true;
      yield nothing();
    }
    canLeave = false;
    for (let from = 0, count = 1; from < mosaic.numFrames; from += count, count = stride[0])
      yield mosaic.frames(from, count);
  }
  const all = chunks();
  return {
    next: () => nextOf(all),
    memory: () => (canLeave ? mosaic.memory() : undefined),
    [Symbol.dispose]() {
      all.return(undefined);
      mosaic[Symbol.dispose]();
    },
  };
}

export const nextOf = (parts: Generator<Tensor>): Tensor | undefined => {
  const next = parts.next();
  return next.done === true ? undefined : next.value;
};

/** The two grids of a decode; undefined where a whole picture is no larger than a tile. */
export function decodeGrids(
  tiling: Tiling | undefined,
  latents: Tensor,
  stride: readonly [number, number, number],
): readonly [Grid, Grid] | undefined {
  if (tiling === undefined) return undefined;
  const from = divided(tiling, stride);
  return latents.size(3) <= from.size[0] && latents.size(4) <= from.size[1] ? undefined : [from, tiling];
}

/** All tiles of x through `run`, joined. */
function tiled(x: Tensor, from: Grid, into: Grid, run: (tile: Tensor) => Tensor): Tensor {
  if (x.size(3) <= from.size[0] && x.size(4) <= from.size[1]) return run(x);
  using mosaic = new Mosaic(x, [from, into]);
  for (let tile = mosaic.tile(); tile !== undefined; tile = mosaic.tile()) {
    using view = tile;
    mosaic.add(keep(scope(() => run(view))));
  }
  return mosaic.frames();
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
