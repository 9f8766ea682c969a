/**
 * The vision tower of VideoLLaMA3 (arXiv 2501.13106, 2.1): images of any size, video frames each for itself; at the end the grid
 * of each frame is scaled down. Children are named by the checkpoint's keys. Axes: N patches, D width.
 */
import {
  Conv2d,
  interpolate,
  LayerNorm,
  linear,
  Module,
  type PatchGrid,
  type RopeTable,
  ropeOfPatches,
  scope,
  type Tensor,
  throughBlocks,
} from "../../native/index.ts";
import { WaverError } from "../index.ts";
import { VisionLayer } from "./layers.ts";
import type { VisionConfig } from "./params.ts";

export class VisionTower extends Module {
  readonly embeddings: { readonly patch_embedding: Conv2d };
  readonly encoder: { readonly layers: readonly VisionLayer[] };
  readonly post_layernorm: LayerNorm;
  readonly #config: VisionConfig;

  constructor(config: VisionConfig) {
    super();
    this.#config = config;
    const { num_channels, hidden_size, patch_size, num_hidden_layers, layer_norm_eps } = config;
    this.embeddings = { patch_embedding: new Conv2d(num_channels, hidden_size, patch_size) };
    this.encoder = { layers: Array.from({ length: num_hidden_layers }, () => new VisionLayer(config)) };
    this.post_layernorm = new LayerNorm(hidden_size, { eps: layer_norm_eps });
  }

  /** Patches of one image or video [N, pixels], blocks of `merge` x `merge` consecutive, and their grid -> [N / merge^2, D] */
  forward(patches: Tensor, grid: PatchGrid, merge: number): Tensor {
    const [T, H, W] = grid;
    if (patches.size(0) !== T * H * W || H % merge !== 0 || W % merge !== 0)
      throw new WaverError(
        "shape_mismatch",
        `patches [${patches.shape}] for a grid of ${grid.join(" x ")} in blocks of ${merge} x ${merge}`,
      );
    return scope(() => {
      // a convolution over patches that do not overlap is a product
      const { weight, bias } = this.embeddings.patch_embedding;
      const embedded = linear(patches.to(weight.dtype), weight.flatten(1), bias).unsqueeze(0);
      const rope = this.#positions(grid, merge, patches.device);
      const frames = new Array<number>(T).fill(H * W);
      const h = throughBlocks(this.encoder.layers, embedded, (layer, x) => layer.forward(x, rope, frames));
      return scaledDown(this.post_layernorm.forward(h).squeeze(0), grid, merge);
    });
  }

  #positions([T, H, W]: PatchGrid, merge: number, device: string): RopeTable {
    const { hidden_size, num_attention_heads, rope_theta } = this.#config;
    const [rows, columns]: [number[], number[]] = [[], []];
    for (let t = 0; t < T; t++)
      for (let y = 0; y < H; y += merge)
        for (let x = 0; x < W; x += merge)
          for (let i = 0; i < merge ** 2; i++) {
            rows.push(y + Math.floor(i / merge));
            columns.push(x + (i % merge));
          }
    return ropeOfPatches({ rows, columns }, hidden_size / num_attention_heads, rope_theta, device);
  }
}

/** [N D] in blocks -> [N / merge^2, D] in raster order: every frame's grid scaled down bilinearly. */
function scaledDown(x: Tensor, [T, H, W]: PatchGrid, merge: number): Tensor {
  const raster = x
    .view([T, H / merge, W / merge, merge, merge, -1])
    .permute([0, 5, 1, 3, 2, 4])
    .reshape([T, -1, H, W]);
  const small = interpolate(raster, { size: [H / merge, W / merge], mode: "bilinear" });
  return small.permute([0, 2, 3, 1]).reshape([-1, x.size(-1)]);
}
