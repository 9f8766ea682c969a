/**
 * The vision tower of Qwen2.5-VL (arXiv 2502.13923, 2.1.1). Most blocks attend within windows, a few within a whole frame; so
 * the patches are put in window order once, and back in raster order at the end.
 *
 * Axes: N patches, D width. A unit is merge x merge patches, consecutive rows; t, y, x count units.
 */
import {
  kaimingUniformInit,
  linear,
  Module,
  type Parameter,
  type PatchGrid,
  ropeOfPatches,
  scope,
  type Tensor,
  tensor,
  throughBlocks,
} from "../../native/index.ts";
import { WaverError } from "../index.ts";
import { PatchMerger, VisionBlock } from "./layers.ts";
import type { VisionConfig } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

/** The convolution over a patch, which is a product, since patches do not overlap. */
class PatchEmbed extends Module {
  readonly proj: { readonly weight: Parameter };

  constructor({ hidden_size, in_channels, temporal_patch_size, patch_size }: VisionConfig) {
    super();
    const shape = [hidden_size, in_channels, temporal_patch_size, patch_size, patch_size];
    this.proj = { weight: this.parameter(shape, kaimingUniformInit) };
  }

  /** patches [N, channels * frames * rows * columns] -> [N D] */
  forward(patches: Tensor): Tensor {
    return linear(patches, this.proj.weight.flatten(1));
  }
}

interface Plan {
  /** Units in window order. */
  readonly order: readonly number[];
  /** Patches of each window, and of each frame. */
  readonly windows: readonly number[];
  readonly frames: readonly number[];
  /** Row and column of every patch, in window order. */
  readonly rows: readonly number[];
  readonly columns: readonly number[];
}

/** Windows of `side` x `side` units from the top left; those at the right and the bottom may be smaller. */
export function planWindows([T, H, W]: PatchGrid, merge: number, side: number): Plan {
  const [Y, X] = [H / merge, W / merge];
  const [order, windows, rows, columns]: [number[], number[], number[], number[]] = [[], [], [], []];
  for (let t = 0; t < T; t++)
    for (let y0 = 0; y0 < Y; y0 += side)
      for (let x0 = 0; x0 < X; x0 += side) {
        const [y1, x1] = [Math.min(Y, y0 + side), Math.min(X, x0 + side)];
        windows.push((y1 - y0) * (x1 - x0) * merge ** 2);
        for (let y = y0; y < y1; y++)
          for (let x = x0; x < x1; x++) {
            order.push((t * Y + y) * X + x);
            for (let i = 0; i < merge ** 2; i++) {
              rows.push(y * merge + Math.floor(i / merge));
              columns.push(x * merge + (i % merge));
            }
          }
      }
  return { order, windows, rows, columns, frames: new Array<number>(T).fill(H * W) };
}

export class VisionTower extends Module {
  readonly patch_embed: PatchEmbed;
  readonly blocks: readonly VisionBlock[];
  readonly merger: PatchMerger;
  readonly #config: VisionConfig;

  constructor(config: VisionConfig) {
    super();
    this.#config = config;
    this.patch_embed = new PatchEmbed(config);
    this.blocks = Array.from({ length: config.depth }, () => new VisionBlock(config));
    this.merger = new PatchMerger(config);
  }

  /** Patches of one image or video [N, pixels], units consecutive, and their grid -> tokens [N / merge^2, D_text] in raster order. */
  forward(patches: Tensor, grid: PatchGrid, tap?: Tap): Tensor {
    const {
      spatial_merge_size: merge,
      patch_size,
      window_size,
      hidden_size,
      num_heads,
      rope_theta,
      fullatt_block_indexes,
    } = this.#config;
    const numPatches = grid[0] * grid[1] * grid[2];
    if (patches.size(0) !== numPatches || grid[1] % merge !== 0 || grid[2] % merge !== 0)
      throw new WaverError(
        "shape_mismatch",
        `patches [${patches.shape}] for a grid of ${grid.join(" x ")} in units of ${merge} x ${merge}`,
      );
    return scope(() => {
      const plan = planWindows(grid, merge, Math.floor(window_size / merge / patch_size));
      const { device } = patches;
      const inOrder = (x: Tensor, units: readonly number[], rows: number): Tensor =>
        x
          .view([units.length, rows, -1])
          .indexSelect(0, tensor([...units], { dtype: "int64", device }))
          .flatten(0, 1);
      const rope = ropeOfPatches(plan, hidden_size / num_heads, rope_theta, device);
      const embedded = this.patch_embed.forward(patches.to(this.patch_embed.proj.weight.dtype));
      tap?.("patch_embed", embedded);
      const start = inOrder(embedded, plan.order, merge ** 2);
      const h = throughBlocks(
        this.blocks,
        start,
        (block, x, i) => {
          const y = block.forward(x, rope, fullatt_block_indexes.includes(i) ? plan.frames : plan.windows);
          tap?.(`block.${i}`, y);
          return y;
        },
        { keep: tap !== undefined },
      );
      const back = new Array<number>(plan.order.length);
      plan.order.forEach((unit, at) => {
        back[unit] = at;
      });
      const merged = inOrder(this.merger.forward(h), back, 1);
      tap?.("merged", merged);
      return merged;
    });
  }
}
