/**
 * AutoencoderKLWan (Wan 4.1): a causal video VAE. Encoder: levels that halve the sides and, some of them, the frames;
 * a middle with attention inside each frame; the decoder mirrors it. Wan 2.1 has plain levels, Wan 2.2 (`is_residual`) puts a
 * parameter-free shortcut around each level and folds pixels into channels first (`patch_size`).
 *
 * Children are named by the checkpoint's keys (diffusers). Axes: B batch, C channels, F pixel frames, T latent frames,
 * H W pixel rows and columns, h w latent ones.
 */
import { cat, isGradEnabled, keep, Module, scope, type Tensor } from "../../native/index.ts";
import { type Chunk, Chunks, type Tap, whole } from "./chunk.ts";
import {
  activated,
  averageDown,
  CausalConv3d,
  ChannelNorm,
  Downsample,
  FrameAttention,
  ResidualBlock,
  repeatUp,
  type Step,
  through,
  Upsample,
} from "./layers.ts";
import { stride, type VaeConfig } from "./params.ts";

/** Residual block, attention, residual block at the smallest size. */
class MidBlock extends Module {
  readonly attentions: readonly [FrameAttention];
  readonly resnets: readonly [ResidualBlock, ResidualBlock];

  constructor(dim: number) {
    super();
    this.attentions = [new FrameAttention(dim)];
    this.resnets = [new ResidualBlock(dim, dim), new ResidualBlock(dim, dim)];
  }

  forward(x: Tensor, chunk: Chunk): Tensor {
    const [first, second] = this.resnets;
    return through(x, [
      (x) => first.forward(x, chunk),
      (x) => this.attentions[0].forward(x),
      (x) => second.forward(x, chunk),
    ]);
  }
}

interface Layer {
  forward(x: Tensor, chunk: Chunk): Tensor;
}
const stepsOf = (layers: readonly Layer[], chunk: Chunk): Step[] =>
  layers.map(
    (layer): Step =>
      (x) =>
        layer.forward(x, chunk),
  );

interface Level {
  readonly inDim: number;
  readonly outDim: number;
  /** Whether the level changes the sides, and the frames too. */
  readonly resizes: boolean;
  readonly time: boolean;
}

const residualBlocks = (level: Level, count: number): ResidualBlock[] =>
  Array.from({ length: count }, (_, i) => new ResidualBlock(i === 0 ? level.inDim : level.outDim, level.outDim));

/** A level of the Wan 2.2 encoder: residual blocks, then smaller, beside an average of the input. */
class DownBlock extends Module {
  readonly resnets: readonly ResidualBlock[];
  readonly downsampler: Downsample | undefined;
  readonly #level: Level;

  constructor(level: Level, numBlocks: number) {
    super();
    this.#level = level;
    this.resnets = residualBlocks(level, numBlocks);
    this.downsampler = level.resizes ? new Downsample(level.outDim, level.time) : undefined;
  }

  forward(x: Tensor, chunk: Chunk): Tensor {
    const { outDim, resizes, time } = this.#level;
    const layers = [...this.resnets, ...(this.downsampler === undefined ? [] : [this.downsampler])];
    const small = through(x, stepsOf(layers, chunk));
    return small.add(averageDown(x, outDim, time ? 2 : 1, resizes ? 2 : 1));
  }
}

/** A level of the decoder: residual blocks, then larger; in Wan 2.2 beside a repetition of the input. */
class UpBlock extends Module {
  readonly resnets: readonly ResidualBlock[];
  /** Wan 2.1 keeps its upsampler in a list and halves the channels in it; Wan 2.2 does neither. */
  readonly upsamplers: readonly Upsample[] | undefined;
  readonly upsampler: Upsample | undefined;
  readonly #level: Level;

  constructor(level: Level, numBlocks: number, isResidual: boolean) {
    super();
    this.#level = level;
    this.resnets = residualBlocks(level, numBlocks + 1);
    if (!level.resizes) return;
    if (isResidual) this.upsampler = new Upsample(level.outDim, level.outDim, level.time);
    else this.upsamplers = [new Upsample(level.outDim, level.outDim / 2, level.time)];
  }

  /** Without a way around it a level is its layers: none needs to keep what came into it. */
  steps(chunk: Chunk): Step[] {
    if (this.upsampler === undefined) return stepsOf([...this.resnets, ...(this.upsamplers ?? [])], chunk);
    const { outDim, time } = this.#level;
    const layers = stepsOf([...this.resnets, this.upsampler], chunk);
    return [(x) => through(x, layers).add(repeatUp(x, outDim, time ? 2 : 1, 2, chunk))];
  }
}

class Encoder extends Module {
  readonly conv_in: CausalConv3d;
  readonly down_blocks: readonly (ResidualBlock | Downsample | DownBlock)[];
  readonly mid_block: MidBlock;
  readonly norm_out: ChannelNorm;
  readonly conv_out: CausalConv3d;

  constructor(config: VaeConfig) {
    super();
    const dims = [1, ...config.dim_mult].map((mult) => mult * config.base_dim);
    const last = config.dim_mult.length - 1;
    const levels = config.dim_mult.map(
      (_, i): Level => ({
        inDim: dims[i] as number,
        outDim: dims[i + 1] as number,
        resizes: i < last,
        time: i < last && config.temperal_downsample[i] === true,
      }),
    );
    const width = dims.at(-1) as number;
    this.conv_in = new CausalConv3d(config.in_channels, config.base_dim, 3);
    this.down_blocks = config.is_residual
      ? levels.map((level) => new DownBlock(level, config.num_res_blocks))
      : levels.flatMap((level) => [
          ...residualBlocks(level, config.num_res_blocks),
          ...(level.resizes ? [new Downsample(level.outDim, level.time)] : []),
        ]);
    this.mid_block = new MidBlock(width);
    this.norm_out = new ChannelNorm(width);
    this.conv_out = new CausalConv3d(width, 2 * config.z_dim, 3);
  }

  forward(video: Tensor, chunk: Chunk): Tensor {
    return through(video, [
      ...this.conv_in.steps(chunk),
      tap(chunk, "encoder.conv_in"),
      ...this.down_blocks.flatMap((block, i) => [...stepsOf([block], chunk), tap(chunk, `encoder.down_blocks.${i}`)]),
      (x) => this.mid_block.forward(x, chunk),
      tap(chunk, "encoder.mid_block"),
      ...activated(this.norm_out, this.conv_out, chunk),
      tap(chunk, "encoder.conv_out"),
    ]);
  }
}

class Decoder extends Module {
  readonly conv_in: CausalConv3d;
  readonly mid_block: MidBlock;
  readonly up_blocks: readonly UpBlock[];
  readonly norm_out: ChannelNorm;
  readonly conv_out: CausalConv3d;

  constructor(config: VaeConfig) {
    super();
    const mults = config.dim_mult.toReversed();
    const dims = [mults[0] as number, ...mults].map((mult) => mult * (config.decoder_base_dim ?? config.base_dim));
    const last = mults.length - 1;
    const time = config.temperal_downsample.slice(0, last).reverse();
    const levels = mults.map((_, i): Level => {
      const inDim = dims[i] as number;
      // Wan 2.1: the upsampler before has already halved the channels
      return {
        inDim: i > 0 && !config.is_residual ? inDim / 2 : inDim,
        outDim: dims[i + 1] as number,
        resizes: i < last,
        time: i < last && time[i] === true,
      };
    });
    this.conv_in = new CausalConv3d(config.z_dim, dims[0] as number, 3);
    this.mid_block = new MidBlock(dims[0] as number);
    this.up_blocks = levels.map((level) => new UpBlock(level, config.num_res_blocks, config.is_residual));
    const width = dims.at(-1) as number;
    this.norm_out = new ChannelNorm(width);
    this.conv_out = new CausalConv3d(width, config.out_channels, 3);
  }

  forward(z: Tensor, chunk: Chunk): Tensor {
    return through(z, [
      ...this.conv_in.steps(chunk),
      tap(chunk, "decoder.conv_in"),
      (x) => this.mid_block.forward(x, chunk),
      tap(chunk, "decoder.mid_block"),
      ...this.up_blocks.flatMap((block, i) => [...block.steps(chunk), tap(chunk, `decoder.up_blocks.${i}`)]),
      ...activated(this.norm_out, this.conv_out, chunk),
      tap(chunk, "decoder.conv_out"),
    ]);
  }
}

/** Shows what goes by. */
const tap =
  (chunk: Chunk, name: string): Step =>
  (x) => {
    chunk.tap(name, x);
    return x;
  };

/**
 * How a clip goes through. For gradients: all at once, or so many latent frames at a time after the first, which is always
 * alone. Without: one latent frame at a time, as the reference runs, and so many are handed out together.
 */
export interface Pass {
  readonly perChunk?: number;
  readonly tap?: Tap;
  /** The memory of a clip that goes through in several passes; the caller's. */
  readonly chunks?: Chunks;
}

export class AutoencoderKLWan extends Module {
  readonly encoder: Encoder;
  readonly quant_conv: CausalConv3d;
  readonly post_quant_conv: CausalConv3d;
  readonly decoder: Decoder;
  readonly #patch: number;
  readonly #framesPerLatent: number;

  constructor(config: VaeConfig) {
    super();
    this.encoder = new Encoder(config);
    this.quant_conv = new CausalConv3d(2 * config.z_dim, 2 * config.z_dim, 1);
    this.post_quant_conv = new CausalConv3d(config.z_dim, config.z_dim, 1);
    this.decoder = new Decoder(config);
    this.#patch = config.patch_size ?? 1;
    this.#framesPerLatent = stride(config)[0];
  }

  /** video [B 3 F H W] -> mean and logvar, concatenated [B 2C T h w]; frames past the last whole group are left out, as the reference does. */
  encode(video: Tensor, pass: Pass = {}): Tensor {
    const x = patchify(video, this.#patch);
    const numLatent = 1 + Math.floor((x.size(2) - 1) / this.#framesPerLatent);
    const moments = [
      ...this.#chunks(x, numLatent, this.#framesPerLatent, pass, (frames, chunk) =>
        this.encoder.forward(frames, chunk),
      ),
    ];
    return this.quant_conv.forward(joined(moments));
  }

  /** latents [B C T h w], not normalised -> video, a chunk [B 3 F' H W] at a time; not clamped. */
  *decode(latents: Tensor, pass: Pass = {}): Generator<Tensor> {
    using z = keep(scope(() => this.post_quant_conv.forward(latents))); // between two chunks the caller's scope may end
    yield* this.#chunks(z, z.size(2), 1, pass, (frames, chunk) =>
      unpatchify(this.decoder.forward(frames, chunk), this.#patch),
    );
  }

  /** `step` frames of x make one latent frame; what `run` returns for a chunk belongs to the caller. */
  *#chunks(
    x: Tensor,
    numLatent: number,
    step: number,
    pass: Pass,
    run: (frames: Tensor, chunk: Chunk) => Tensor,
  ): Generator<Tensor> {
    const frames = (from: number, to: number): Tensor => {
      const start = from === 0 ? 0 : 1 + step * (from - 1);
      return x.narrow(2, start, 1 + step * (to - 1) - start);
    };
    const { perChunk, tap } = pass;
    // of a picture nothing need be remembered
    const atOnce = numLatent === 1 || (isGradEnabled() && perChunk === undefined);
    if (atOnce && tap === undefined && pass.chunks === undefined) {
      yield scope(() => run(frames(0, numLatent), whole));
      return;
    }
    using own = pass.chunks === undefined ? new Chunks(tap) : undefined;
    const chunks = own ?? (pass.chunks as Chunks);
    const unit = isGradEnabled() ? (perChunk ?? 1) : 1;
    while (chunks.position < numLatent) {
      const end = chunks.position === 0 ? 1 : Math.min(numLatent, chunks.position + (perChunk ?? 1));
      yield scope(() => {
        const parts: Tensor[] = [];
        for (let from = chunks.position; from < end; from = chunks.position) {
          const to = Math.min(end, from + unit);
          parts.push(scope(() => run(frames(from, to), chunks)));
          chunks.next(to);
        }
        return joined(parts);
      });
    }
  }
}

export const joined = (parts: readonly Tensor[]): Tensor => (parts.length === 1 ? (parts[0] as Tensor) : cat(parts, 2));

/** [B C F H*p W*p] -> [B C*p*p F H W]; features ordered (channel, column, row), as the checkpoints were trained. */
function patchify(x: Tensor, p: number): Tensor {
  if (p === 1) return x;
  const [B, C, F, H, W] = x.shape as [number, number, number, number, number];
  return x
    .reshape([B, C, F, H / p, p, W / p, p])
    .permute([0, 1, 6, 4, 2, 3, 5])
    .reshape([B, C * p * p, F, H / p, W / p]);
}

/** The way back. */
function unpatchify(x: Tensor, p: number): Tensor {
  if (p === 1) return x;
  const [B, C, F, H, W] = x.shape as [number, number, number, number, number];
  return x
    .reshape([B, C / (p * p), p, p, F, H, W])
    .permute([0, 1, 4, 5, 3, 6, 2])
    .reshape([B, C / (p * p), F, H * p, W * p]);
}
