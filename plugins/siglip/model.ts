/**
 * SigLIP (Zhai et al. 2023, arXiv 2303.15343): CLIP's two towers trained with a sigmoid. No class token and no causal mask;
 * patches are pooled by attention, texts at their last position. Children are named by the keys of Transformers' checkpoints.
 *
 * Axes: B images or texts, C channels, H W rows and columns, P patches, L tokens, D width, E the common space.
 */
import {
  Conv2d,
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
  zerosInit,
} from "../../native/index.ts";
import { WaverError } from "../index.ts";
import { PoolingHead } from "./head.ts";
import type { SiglipConfig, TextConfig, VisionConfig } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

class VisionEmbeddings extends Module {
  readonly patch_embedding: Conv2d;
  readonly position_embedding: Embedding;
  readonly #config: VisionConfig;

  constructor(config: VisionConfig) {
    super();
    const { hidden_size: D, image_size, patch_size, num_channels } = config;
    this.#config = config;
    this.patch_embedding = new Conv2d(num_channels, D, patch_size, { stride: patch_size });
    this.position_embedding = new Embedding(Math.floor(image_size / patch_size) ** 2, D, {
      init: normalInit(D ** -0.5),
    });
  }

  /** pixels [B C H W] -> [B P D]. Another size than the checkpoint's needs `anySize`: positions are then resized (bicubic). */
  forward(pixels: Tensor, anySize: boolean): Tensor {
    const { image_size } = this.#config;
    const [H, W] = [pixels.size(2), pixels.size(3)];
    if (!anySize && (H !== image_size || W !== image_size))
      throw new WaverError(
        "shape_mismatch",
        `this SigLIP takes images of ${image_size} x ${image_size}, not ${W} x ${H}`,
        {
          hint: "preprocess the images as its preprocessor_config.json says",
        },
      );
    const patches = this.patch_embedding.forward(pixels.to(this.patch_embedding.weight.dtype));
    const positions = resizePositions(this.position_embedding.weight, patches.size(2), patches.size(3));
    return patches.flatten(2).transpose(1, 2).add(positions);
  }
}

export class VisionTower extends Module {
  readonly embeddings: VisionEmbeddings;
  readonly encoder: Encoder;
  readonly post_layernorm: LayerNorm;
  readonly head: PoolingHead | undefined;

  constructor(config: VisionConfig) {
    super();
    this.embeddings = new VisionEmbeddings(config);
    this.encoder = new Encoder(config);
    this.post_layernorm = new LayerNorm(config.hidden_size, { eps: config.layer_norm_eps });
    this.head = config.vision_use_head ? new PoolingHead(config) : undefined;
  }

  /** pixels [B C H W], normalised -> states [B P D], normed. */
  forward(pixels: Tensor, { tap, interpolate = false }: { tap?: Tap; interpolate?: boolean } = {}): Tensor {
    return scope(() =>
      this.post_layernorm.forward(this.encoder.forward(this.embeddings.forward(pixels, interpolate), { tap })),
    );
  }

  /** states [B P D] -> [B D]: by the head, else the mean of the patches. */
  pool(states: Tensor): Tensor {
    return scope(() => this.head?.forward(states) ?? states.mean(1));
  }
}

class TextTower extends Module {
  readonly embeddings: { readonly token_embedding: Embedding; readonly position_embedding: Embedding };
  readonly encoder: Encoder;
  readonly final_layer_norm: LayerNorm;
  readonly head: Linear;
  readonly #config: TextConfig;

  constructor(config: TextConfig) {
    super();
    const { hidden_size: D, vocab_size, max_position_embeddings, layer_norm_eps, projection_size } = config;
    this.#config = config;
    this.embeddings = {
      token_embedding: new Embedding(vocab_size, D, { init: normalInit(D ** -0.5) }),
      position_embedding: new Embedding(max_position_embeddings, D, { init: normalInit(D ** -0.5) }),
    };
    this.encoder = new Encoder(config);
    this.final_layer_norm = new LayerNorm(D, { eps: layer_norm_eps });
    this.head = new Linear(D, projection_size ?? D, { biasInit: zerosInit });
  }

  /** ids [B L] int64, mask [B L] (1 = token; the published models are trained and used without) -> states [B L D], normed. */
  forward(ids: Tensor, mask?: Tensor, tap?: Tap): Tensor {
    const L = ids.size(1);
    const { max_position_embeddings } = this.#config;
    if (L > max_position_embeddings)
      throw new WaverError("shape_mismatch", `this SigLIP reads ${max_position_embeddings} tokens, not ${L}`, {
        hint: "cut the text, its end token kept",
      });
    return scope(() => {
      const { token_embedding, position_embedding } = this.embeddings;
      const seen = mask?.to("bool").unsqueeze(1).unsqueeze(2) ?? null;
      const embedded = token_embedding.forward(ids).add(position_embedding.weight.narrow(0, 0, L));
      const x = this.encoder.forward(embedded, { mask: seen, tap });
      return this.final_layer_norm.forward(x);
    });
  }

  /** states [B L D] -> [B E] at the last position: texts are padded with their end token to full length. */
  pool(states: Tensor): Tensor {
    return scope(() => this.head.forward(states.select(1, -1)));
  }
}

/** The vision tower alone: `SiglipVisionModel`. */
export class SiglipVision extends Module {
  readonly vision_model: VisionTower;

  constructor(config: VisionConfig) {
    super();
    this.vision_model = new VisionTower(config);
  }
}

export class Siglip extends Module {
  readonly text_model: TextTower;
  readonly vision_model: VisionTower;
  readonly logit_scale: Parameter;
  readonly logit_bias: Parameter;

  constructor(config: SiglipConfig) {
    super();
    this.text_model = new TextTower(config.text_config);
    this.vision_model = new VisionTower(config.vision_config);
    this.logit_scale = this.parameter([1], zerosInit);
    this.logit_bias = this.parameter([1], zerosInit);
  }

  /** Embeddings of texts [T E] and images [B E], of any length -> logits [T B]: scaled and shifted cosines, for a sigmoid. */
  logits(texts: Tensor, images: Tensor): Tensor {
    return scope(() =>
      unit(texts).matmul(unit(images).transpose(0, 1)).mul(this.logit_scale.exp()).add(this.logit_bias),
    );
  }
}
