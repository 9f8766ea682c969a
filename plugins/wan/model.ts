/**
 * WanTransformer3DModel (Wan 4.2, arXiv 2503.20314): patches of latents, a stack of blocks with full attention over all of them,
 * text by cross-attention, time by modulation. Children are named by diffusers' checkpoint keys.
 *
 * Axes: B batch, C latent channels, T h w latent frames, rows, columns; t y x the same in tokens, S = t*y*x; L text tokens,
 * I image tokens, D width.
 */
import {
  arange,
  Conv3d,
  cat,
  type DType,
  derived,
  LayerNorm,
  Linear,
  Module,
  modulatedLayerNorm,
  normalInit,
  overTokens,
  type Parameter,
  type RopeTable,
  remembered,
  rope3d,
  scope,
  type Tensor,
  throughBlocks,
  zerosInit,
} from "../../native/index.ts";
import { Block, FeedForward, plainNorm, type Tap } from "./layers.ts";
import type { WanConfig } from "./params.ts";

/** The steepest of the frequencies that a time is spelled in (Vaswani et al. 2017). */
const MAX_PERIOD = 10000;

/** linear, SiLU, linear on the sinusoid of a time. */
class TimeEmbedder extends Module {
  readonly linear_1: Linear;
  readonly linear_2: Linear;

  constructor(freqDim: number, dim: number) {
    super();
    this.linear_1 = new Linear(freqDim, dim);
    this.linear_2 = new Linear(dim, dim);
  }

  forward(x: Tensor): Tensor {
    return this.linear_2.forward(this.linear_1.forward(x.to(this.linear_1.weight.dtype)).silu());
  }
}

/** linear, GELU, linear: text features into the width of the DiT. */
class TextEmbedder extends Module {
  readonly linear_1: Linear;
  readonly linear_2: Linear;

  constructor(textDim: number, dim: number) {
    super();
    this.linear_1 = new Linear(textDim, dim);
    this.linear_2 = new Linear(dim, dim);
  }

  forward(x: Tensor): Tensor {
    return this.linear_2.forward(this.linear_1.forward(x).gelu("tanh"));
  }
}

/** Image tokens (CLIP) into the width of the DiT; with positions where first and last frame are both given. */
class ImageEmbedder extends Module {
  readonly norm1: LayerNorm;
  readonly ff: FeedForward;
  readonly norm2: LayerNorm;
  readonly pos_embed: Parameter | undefined;

  constructor(imageDim: number, dim: number, numPositions: number | null | undefined) {
    super();
    this.norm1 = new LayerNorm(imageDim);
    this.ff = new FeedForward(imageDim, imageDim, dim, "none");
    this.norm2 = new LayerNorm(dim);
    this.pos_embed = numPositions == null ? undefined : this.parameter([1, numPositions, imageDim], zerosInit);
  }

  /** [B I D'] -> [B I D]; tokens of first and last frame may also stand apart in the batch, [2B I/2 D'], as diffusers has them */
  forward(x: Tensor): Tensor {
    const tokens =
      this.pos_embed === undefined ? x : x.reshape([-1, this.pos_embed.size(1), x.size(2)]).add(this.pos_embed);
    const y = this.ff.forward(this.norm1.forward(tokens.to("float32")).to(tokens.dtype));
    return this.norm2.forward(y.to("float32")).to(y.dtype);
  }
}

export interface WanInput {
  /** [B C T h w] */
  readonly latents: Tensor;
  /** Times in thousandths: [B], or one a token [B S] (Wan 2.2). */
  readonly timestep: Tensor;
  /** [B L D'] */
  readonly text: Tensor;
  /** [B I D'] */
  readonly image?: Tensor | undefined;
}

export class WanTransformer extends Module {
  readonly patch_embedding: Conv3d;
  readonly condition_embedder: {
    readonly time_embedder: TimeEmbedder;
    readonly time_proj: Linear;
    readonly text_embedder: TextEmbedder;
    readonly image_embedder: ImageEmbedder | undefined;
  };
  readonly blocks: readonly Block[];
  readonly scale_shift_table: Parameter;
  readonly proj_out: Linear;
  readonly #config: WanConfig;

  constructor(config: WanConfig) {
    super();
    this.#config = config;
    const D = config.num_attention_heads * config.attention_head_dim;
    this.patch_embedding = new Conv3d(config.in_channels, D, config.patch_size, { stride: config.patch_size });
    this.condition_embedder = {
      time_embedder: new TimeEmbedder(config.freq_dim, D),
      time_proj: new Linear(D, 6 * D),
      text_embedder: new TextEmbedder(config.text_dim, D),
      image_embedder:
        config.image_dim == null ? undefined : new ImageEmbedder(config.image_dim, D, config.pos_embed_seq_len),
    };
    this.blocks = Array.from({ length: config.num_layers }, () => new Block(config));
    this.scale_shift_table = this.parameter([1, 2, D], normalInit(D ** -0.5));
    this.proj_out = new Linear(D, config.out_channels * config.patch_size.reduce((a, b) => a * b, 1));
  }

  override runsBlocks(): readonly Module[] {
    return this.blocks;
  }

  /** -> velocity [B C' T h w]; sides that do not divide into patches are cut. */
  forward({ latents, timestep, text, image }: WanInput, tap?: Tap): Tensor {
    return scope(() => {
      const seen = (name: string, value: Tensor): Tensor => {
        tap?.(name, () => value);
        return value;
      };
      const { time_embedder, time_proj, text_embedder, image_embedder } = this.condition_embedder;
      const dtype = this.proj_out.weight.dtype;

      const patches = seen("patch_embedding", this.patch_embedding.forward(latents.to(dtype))); // [B D t y x]
      const grid = patches.shape.slice(2) as [number, number, number];
      const rows = scope(() => patches.flatten(2).transpose(1, 2).contiguous()); // [B S D], dense for the fused kernels
      if (tap === undefined) patches.dispose();
      const rope = this.#rope(grid, latents.device, tap);

      const times = timestep.ndim === 1 ? timestep.unsqueeze(1) : timestep; // [B 1] or [B S]
      const embedded = time_embedder.forward(sinusoid(times, this.#config.freq_dim));
      tap?.("condition_embedder.time_embedder", () => (timestep.ndim === 1 ? embedded.squeeze(1) : embedded));
      const vec = embedded.to(dtype); // [B 1 D] or [B S D]
      const modulation = time_proj.forward(vec.silu());
      tap?.("condition_embedder.time_proj", () => (timestep.ndim === 1 ? modulation.squeeze(1) : modulation));
      const shared = {
        text: seen("condition_embedder.text_embedder", embeddedOnce(text_embedder, text, dtype)),
        image:
          image === undefined || image_embedder === undefined
            ? undefined
            : seen("condition_embedder.image_embedder", embeddedOnce(image_embedder, image, dtype)),
      };

      const x = overTokens(
        {
          tokens: [rows, 1],
          cos: [rope.cos, 0],
          sin: [rope.sin, 0],
          time: [modulation.unflatten(-1, [6, -1]), timestep.ndim === 1 ? null : 1],
        },
        ({ tokens, cos, sin, time }) =>
          throughBlocks(
            this.blocks,
            tokens,
            (block, x, i) =>
              seen(
                `blocks.${i}`,
                block.forward(
                  x,
                  { ...shared, time, rope: { cos, sin } },
                  tap && ((name, value) => tap(`blocks.${i}.${name}`, value)),
                ),
              ),
            { keep: tap !== undefined },
          ),
      );

      const [shift, scale] = this.scale_shift_table.add(vec.unsqueeze(2).to("float32")).unbind(2) as [Tensor, Tensor];
      tap?.("norm_out", () => plainNorm(x, this.#config.eps));
      const out = modulatedLayerNorm(x, { scale, shift }, this.#config.eps);
      return this.#unpatchify(seen("proj_out", this.proj_out.forward(out)), grid);
    });
  }

  /** The tables of the last grid are kept: they are long, and the same at every step. */
  #rope([t, h, w]: [number, number, number], device: string, tap?: Tap): RopeTable {
    const { weight } = this.proj_out;
    const [cos, sin] = derived(weight, this.condition_embedder, [t, h, w], () => {
      const table = rope3d({ t, h, w }, this.#config.attention_head_dim, MAX_PERIOD, device);
      return [table.cos, table.sin];
    }) as [Tensor, Tensor];
    const shown = (half: Tensor): Tensor => half.repeatInterleave(2, 1).unsqueeze(0).unsqueeze(2);
    tap?.("rope_cos", () => shown(cos));
    tap?.("rope_sin", () => shown(sin));
    return { cos, sin };
  }

  /** tokens [B S pt*ph*pw*C], channel fastest -> [B C T h w] */
  #unpatchify(tokens: Tensor, [t, y, x]: [number, number, number]): Tensor {
    const [pt, ph, pw] = this.#config.patch_size;
    const C = this.#config.out_channels;
    return tokens
      .reshape([-1, t, y, x, pt, ph, pw, C])
      .permute([0, 7, 1, 4, 2, 5, 3, 6])
      .reshape([-1, C, t * pt, y * ph, x * pw]);
  }
}

/** Text or image tokens in the width of the DiT: the same at every step, so kept with the tokens. */
function embeddedOnce(embedder: TextEmbedder | ImageEmbedder, tokens: Tensor, dtype: DType): Tensor {
  return remembered(tokens, embedder, [embedder], () => [embedder.forward(tokens.to(dtype))])[0] as Tensor;
}

/** times [..] -> [.. n]: cosines, then sines. In float32 as the reference: near 1000 its error is the largest of the network. */
function sinusoid(times: Tensor, n: number): Tensor {
  const half = n / 2;
  const frequencies = arange(0, half, 1, { dtype: "float32", device: times.device })
    .mul(-Math.log(MAX_PERIOD))
    .div(half)
    .exp();
  const angles = times.to("float32").unsqueeze(-1).mul(frequencies);
  return cat([angles.cos(), angles.sin()], -1);
}
