/**
 * DINOv2 (Oquab et al. 2023, arXiv 2304.07193) and its form with registers (Darcet et al. 2023, arXiv 2309.16588): a vision
 * transformer trained without labels. Children are named by the keys of Transformers' checkpoints.
 *
 * Axes: B images, C channels, H W rows and columns, P patches in y rows and x columns, R registers, D width.
 * Tokens stand in the order class, registers, patches.
 */
import {
  Conv2d,
  cat,
  LayerNorm,
  Module,
  type Parameter,
  resizePositions,
  scope,
  type Tensor,
  throughBlocks,
  truncNormalInit,
  where,
  zerosInit,
} from "../../native/index.ts";
import { WaverError } from "../index.ts";
import { Layer } from "./layers.ts";
import type { Dinov2Config } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

class Embeddings extends Module {
  readonly cls_token: Parameter;
  readonly mask_token: Parameter | undefined;
  readonly register_tokens: Parameter | undefined;
  readonly patch_embeddings: { readonly projection: Conv2d };
  readonly position_embeddings: Parameter;
  readonly #config: Dinov2Config;

  constructor(config: Dinov2Config) {
    super();
    const { hidden_size: D, patch_size, num_channels, image_size, num_register_tokens: R } = config;
    const init = truncNormalInit(0.02);
    this.#config = config;
    this.cls_token = this.parameter([1, 1, D], init);
    this.mask_token = config.use_mask_token ? this.parameter([1, D], zerosInit) : undefined;
    this.register_tokens = R > 0 ? this.parameter([1, R, D], zerosInit) : undefined;
    this.patch_embeddings = { projection: new Conv2d(num_channels, D, patch_size, { stride: patch_size, init }) };
    this.position_embeddings = this.parameter([1, Math.floor(image_size / patch_size) ** 2 + 1, D], init);
  }

  /** pixels [B C H W], hidden [B P] bool -> [B 1+R+P D]; sides that do not divide into patches are cut. */
  forward(pixels: Tensor, hidden: Tensor | undefined): Tensor {
    const { projection } = this.patch_embeddings;
    const B = pixels.size(0);
    const { patch_size } = this.#config;
    if (pixels.size(2) < patch_size || pixels.size(3) < patch_size)
      throw new WaverError(
        "shape_mismatch",
        `an image of ${pixels.size(3)} x ${pixels.size(2)} has no patch of ${patch_size}`,
      );
    const grid = projection.forward(pixels.to(projection.weight.dtype)); // [B D y x]
    let patches = grid.flatten(2).transpose(1, 2);
    if (hidden !== undefined) {
      if (this.mask_token === undefined)
        throw new WaverError(
          "invalid_input",
          "this DINOv2 was stored without the token that stands for hidden patches",
        );
      patches = where(hidden.unsqueeze(-1), this.mask_token.unsqueeze(0), patches);
    }
    const { first, rest } = this.#positions(grid.size(2), grid.size(3));
    const parts = [this.cls_token.add(first).expand([B, -1, -1]), patches.add(rest)];
    // registers have no position
    if (this.register_tokens !== undefined) parts.splice(1, 0, this.register_tokens.expand([B, -1, -1]));
    return cat(parts, 1);
  }

  /** Positions of the class token [1 1 D] and the patches [1 y*x D], resized bicubically to the grid (arXiv 2304.07193, B.3). */
  #positions(y: number, x: number): { first: Tensor; rest: Tensor } {
    const table = this.position_embeddings;
    const [first, patches] = table.split([1, table.size(1) - 1], 1) as [Tensor, Tensor];
    // Transformers resizes without antialiasing, but with it where there are registers
    return {
      first,
      rest: resizePositions(patches.squeeze(0), y, x, { antialias: this.register_tokens !== undefined }),
    };
  }
}

export class Dinov2 extends Module {
  readonly embeddings: Embeddings;
  readonly encoder: { readonly layer: readonly Layer[] };
  readonly layernorm: LayerNorm;
  readonly #config: Dinov2Config;

  constructor(config: Dinov2Config) {
    super();
    this.#config = config;
    this.embeddings = new Embeddings(config);
    this.encoder = { layer: Array.from({ length: config.num_hidden_layers }, () => new Layer(config)) };
    this.layernorm = new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
  }

  /** pixels [B C H W], normalised, of any size -> states [B 1+R+P D], normed. `hidden` [B P] marks patches not to be seen. */
  forward(pixels: Tensor, { tap, hidden }: { tap?: Tap; hidden?: Tensor } = {}): Tensor {
    return scope(() => {
      const embedded = this.embeddings.forward(pixels, hidden);
      tap?.("hidden_states.0", embedded);
      const x = throughBlocks(this.encoder.layer, embedded, (layer, y, i) => {
        const z = layer.forward(y);
        tap?.(`hidden_states.${i + 1}`, z);
        return z;
      });
      return this.layernorm.forward(x);
    });
  }

  /** The class token [B D]. */
  pool(states: Tensor): Tensor {
    return states.select(1, 0);
  }

  /** pixels [B C H W] -> patches as maps [B D y x], normed, after each of `depths` layers (counted from 1). */
  maps(pixels: Tensor, depths: readonly number[]): Tensor[] {
    const { patch_size, num_register_tokens: R } = this.#config;
    const grid = [Math.floor(pixels.size(2) / patch_size), Math.floor(pixels.size(3) / patch_size)] as const;
    const asMap = (x: Tensor): Tensor => {
      const patches = this.layernorm.forward(x).narrow(1, 1 + R, grid[0] * grid[1]);
      return patches.transpose(1, 2).unflatten(2, grid).contiguous();
    };
    return scope(() => {
      const start = { x: this.embeddings.forward(pixels, undefined), maps: new Map<number, Tensor>() };
      const { maps } = throughBlocks(this.encoder.layer, start, (layer, { x, maps }, i) => {
        const y = layer.forward(x);
        return { x: y, maps: depths.includes(i + 1) ? new Map([...maps, [i + 1, asMap(y)]]) : maps };
      });
      return depths.map((depth) => maps.get(depth) as Tensor);
    });
  }
}
