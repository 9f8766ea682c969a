/**
 * CLIP (Radford et al. 2021, arXiv 2103.00020): a vision transformer and a causal text transformer whose pooled outputs meet
 * in one space. Children are named by the keys of Transformers' checkpoints, its spelling `pre_layrnorm` included.
 *
 * Axes: B images or texts, C channels, H W rows and columns, P patches, L tokens (1 + P for images), D width, E the common space.
 */
import {
  arange,
  Conv2d,
  cat,
  constantInit,
  Embedding,
  Encoder,
  LayerNorm,
  Linear,
  Module,
  normalInit,
  type Parameter,
  resizePositions,
  scope,
  type Tensor,
  unit,
} from "../../native/index.ts";
import { WaverError } from "../index.ts";
import type { ClipConfig, TextConfig, VisionConfig } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

class VisionEmbeddings extends Module {
  readonly class_embedding: Parameter;
  readonly patch_embedding: Conv2d;
  readonly position_embedding: Embedding;
  readonly #config: VisionConfig;

  constructor(config: VisionConfig) {
    super();
    const { hidden_size: D, image_size, patch_size, num_channels } = config;
    this.#config = config;
    this.class_embedding = this.parameter([D], normalInit(D ** -0.5));
    this.patch_embedding = new Conv2d(num_channels, D, patch_size, {
      stride: patch_size,
      bias: false,
      init: normalInit(0.02),
    });
    this.position_embedding = new Embedding(Math.floor(image_size / patch_size) ** 2 + 1, D, {
      init: normalInit(0.02),
    });
  }

  /** pixels [B C H W] -> [B 1+P D]. Another size than the checkpoint's needs `interpolate`. */
  forward(pixels: Tensor, anySize: boolean): Tensor {
    const { image_size, patch_size } = this.#config;
    const [B, , H, W] = pixels.shape as [number, number, number, number];
    if (!anySize && (H !== image_size || W !== image_size))
      throw new WaverError(
        "shape_mismatch",
        `this CLIP takes images of ${image_size} x ${image_size}, not ${W} x ${H}`,
        {
          hint: "preprocess the images as its preprocessor_config.json says",
        },
      );
    const patches = this.patch_embedding
      .forward(pixels.to(this.patch_embedding.weight.dtype))
      .flatten(2)
      .transpose(1, 2);
    const first = this.class_embedding.expand([B, 1, -1]);
    return cat([first, patches], 1).add(this.#positions(Math.floor(H / patch_size), Math.floor(W / patch_size)));
  }

  /** [1 1+y*x D]: as stored, or the grid of patches resized. */
  #positions(y: number, x: number): Tensor {
    const table = this.position_embedding.weight;
    const [first, patches] = table.split([1, table.size(0) - 1]) as [Tensor, Tensor];
    return cat([first.unsqueeze(0), resizePositions(patches, y, x)], 1);
  }
}

export interface VisionHow {
  readonly tap?: Tap;
  /** Layers that are left out at the end: 1 gives Transformers' `hidden_states[-2]`, which Wan conditions on. */
  readonly skipLast?: number;
  /** Positions are resized to the image's grid instead of refusing another size. */
  readonly interpolate?: boolean;
}

export class VisionTower extends Module {
  readonly embeddings: VisionEmbeddings;
  readonly pre_layrnorm: LayerNorm;
  readonly encoder: Encoder;
  readonly post_layernorm: LayerNorm;

  constructor(config: VisionConfig) {
    super();
    const norm = (): LayerNorm => new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
    this.embeddings = new VisionEmbeddings(config);
    this.pre_layrnorm = norm();
    this.encoder = new Encoder(config);
    this.post_layernorm = norm();
  }

  /** pixels [B C H W], normalised -> states [B 1+P D], class token first, not normed. */
  forward(pixels: Tensor, { tap, skipLast = 0, interpolate = false }: VisionHow = {}): Tensor {
    return scope(() => {
      const x = this.pre_layrnorm.forward(this.embeddings.forward(pixels, interpolate));
      return this.encoder.forward(x, { tap, skipLast });
    });
  }

  /** states [B 1+P D] -> the class token, normed [B D] */
  pool(states: Tensor): Tensor {
    return scope(() => this.post_layernorm.forward(states.select(1, 0)));
  }
}

class TextTower extends Module {
  readonly embeddings: { readonly token_embedding: Embedding; readonly position_embedding: Embedding };
  readonly encoder: Encoder;
  readonly final_layer_norm: LayerNorm;
  readonly #config: TextConfig;

  constructor(config: TextConfig) {
    super();
    const { hidden_size: D, vocab_size, max_position_embeddings, layer_norm_eps } = config;
    this.#config = config;
    this.embeddings = {
      token_embedding: new Embedding(vocab_size, D, { init: normalInit(0.02) }),
      position_embedding: new Embedding(max_position_embeddings, D, { init: normalInit(0.02) }),
    };
    this.encoder = new Encoder(config);
    this.final_layer_norm = new LayerNorm(D, { eps: layer_norm_eps });
  }

  /** ids [B L] int64, mask [B L] (1 = token) -> states [B L D], normed. */
  forward(ids: Tensor, mask?: Tensor, tap?: Tap): Tensor {
    const L = ids.size(1);
    const { max_position_embeddings } = this.#config;
    if (L > max_position_embeddings)
      throw new WaverError("shape_mismatch", `this CLIP reads ${max_position_embeddings} tokens, not ${L}`, {
        hint: "cut the text, its end token kept",
      });
    return scope(() => {
      const { token_embedding, position_embedding } = this.embeddings;
      const embedded = token_embedding.forward(ids).add(position_embedding.weight.narrow(0, 0, L));
      const x = this.encoder.forward(embedded, { mask: causal(L, ids.device, mask), tap });
      return this.final_layer_norm.forward(x);
    });
  }

  /** states [B L D] at each text's first end token [B D] */
  pool(states: Tensor, ids: Tensor): Tensor {
    return scope(() => {
      const { eos_token_id } = this.#config;
      // files of before 2023 name 2, which no text has: the end token is the largest id there
      const at = eos_token_id === 2 ? ids.argmax(-1) : ids.eq(eos_token_id).to("int64").argmax(-1);
      return states.index([arange(0, ids.size(0), 1, { dtype: "int64", device: ids.device }), at]);
    });
  }
}

/** [1 or B, 1, L, L] bool: each token sees itself and those before it that are no padding. */
function causal(L: number, device: string, mask: Tensor | undefined): Tensor {
  const at = arange(0, L, 1, { dtype: "int64", device });
  const before = at.unsqueeze(0).le(at.unsqueeze(1)).view([1, 1, L, L]);
  if (mask === undefined) return before;
  const seen = before.logicalAnd(mask.to("bool").unsqueeze(1).unsqueeze(2));
  // a row that sees nothing (padding in front) sees all, as in Transformers: a softmax over nothing has no value
  return seen.logicalOr(seen.any(-1).unsqueeze(-1).logicalNot());
}

/** The vision tower alone, with or without its projection: what Wan's image-to-video and IP adapters ship. */
export class ClipVision extends Module {
  readonly vision_model: VisionTower;
  readonly visual_projection: Linear | undefined;

  constructor(config: VisionConfig, projected: boolean) {
    super();
    this.vision_model = new VisionTower(config);
    this.visual_projection = projected ? projection(config.hidden_size, config.projection_dim) : undefined;
  }

  /** pixels [B C H W] -> [B E], not scaled to length 1; the pooled class token [B D] of a tower without projection. */
  embedImages(pixels: Tensor, how?: VisionHow): Tensor {
    return scope(() => {
      const pooled = this.vision_model.pool(this.vision_model.forward(pixels, how));
      return this.visual_projection?.forward(pooled) ?? pooled;
    });
  }
}

export class Clip extends Module {
  readonly text_model: TextTower;
  readonly vision_model: VisionTower;
  readonly visual_projection: Linear;
  readonly text_projection: Linear;
  readonly logit_scale: Parameter;

  constructor(config: ClipConfig) {
    super();
    this.text_model = new TextTower(config.text);
    this.vision_model = new VisionTower(config.vision);
    this.visual_projection = projection(config.vision.hidden_size, config.projection_dim);
    this.text_projection = projection(config.text.hidden_size, config.projection_dim);
    this.logit_scale = this.parameter([], constantInit(config.logit_scale_init_value));
  }

  /** pixels [B C H W] -> [B E], not scaled to length 1 */
  embedImages(pixels: Tensor, how?: VisionHow): Tensor {
    return scope(() => this.visual_projection.forward(this.vision_model.pool(this.vision_model.forward(pixels, how))));
  }

  /** ids [B L], mask [B L] -> [B E], not scaled to length 1 */
  embedTexts(ids: Tensor, mask?: Tensor, tap?: Tap): Tensor {
    return scope(() => {
      const states = this.text_model.forward(ids, mask, tap);
      tap?.("last_hidden_state", states);
      return this.text_projection.forward(this.text_model.pool(states, ids));
    });
  }

  /** Embeddings of texts [T E] and images [B E], of any length -> logits [T B]: scaled cosines. */
  logits(texts: Tensor, images: Tensor): Tensor {
    return scope(() => unit(texts).matmul(unit(images).transpose(0, 1)).mul(this.logit_scale.exp()));
  }
}

const projection = (from: number, to: number): Linear =>
  new Linear(from, to, { bias: false, init: normalInit(from ** -0.5) });
