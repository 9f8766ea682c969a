/**
 * The layers of the Wan VAE (Wan 4.1): convolutions that never look ahead, so that a clip can be coded in chunks.
 *
 * Axes: B batch, C channels, T frames, H rows, W columns; video inside the network is [B C T H W], channels last in memory.
 */
import {
  Conv2d,
  Conv3d,
  cat,
  channelNorm,
  interpolate,
  isGradEnabled,
  linear,
  Module,
  onesInit,
  op,
  type Parameter,
  pad,
  scaledDotProductAttention,
  type Tensor,
} from "../../native/index.ts";
import { type Chunk, whole } from "./chunk.ts";

/** A convolution over time and space that sees, for each frame, only that frame and the ones before it. */
export class CausalConv3d extends Conv3d {
  readonly #before: number;

  constructor(inDim: number, outDim: number, kernel: number | [number, number, number]) {
    const [kt, kh, kw] = typeof kernel === "number" ? [kernel, kernel, kernel] : kernel;
    super(inDim, outDim, [kt, kh, kw], { padding: [0, (kh - 1) / 2, (kw - 1) / 2] }); // sides inside the convolution: no copy
    this.#before = kt - 1;
  }

  /** x [B C T H W], the next frames of the clip -> [B C' T H W]. Before the clip all is zero. */
  override forward(x: Tensor, chunk: Chunk = whole): Tensor {
    return this.#before === 0 ? super.forward(x) : super.forward(chunk.withPast(this, x, this.#before));
  }
}

const rmsNorm = op("aten::rms_norm");

/** x / |x| * sqrt(C) * gamma over channels: no mean, no bias, nothing added under the root. */
export class ChannelNorm extends Module {
  readonly gamma: Parameter;

  /** `gamma` has one trailing 1 for each axis of a frame (2) or of a clip (3), as the checkpoints store it. */
  constructor(dim: number, trailing: 2 | 3 = 3) {
    super();
    this.gamma = this.parameter([dim, ...Array<number>(trailing).fill(1)], onesInit);
  }

  /** [B C T H W] -> [B C T H W], with the SiLU that stands before every convolution if asked. */
  forward(x: Tensor, { silu = false } = {}): Tensor {
    if (!isGradEnabled() && x.device === "cpu") return channelNorm(x, this.gamma.flatten(), { silu });
    // libtorch's own kernel has a backward, and on a GPU is one launch. The reference holds |x| at 1e-12 and above; under
    // the root that is this eps, and a zero vector stays zero.
    const dim = x.size(1);
    const normed = rmsNorm(x.movedim(1, -1), [dim], this.gamma.flatten(), 1e-24 / dim);
    return (silu ? normed.silu() : normed).movedim(-1, 1);
  }
}

/** norm, SiLU, convolution, twice, beside a shortcut. */
export class ResidualBlock extends Module {
  readonly norm1: ChannelNorm;
  readonly conv1: CausalConv3d;
  readonly norm2: ChannelNorm;
  readonly conv2: CausalConv3d;
  readonly conv_shortcut: CausalConv3d | undefined;

  constructor(inDim: number, outDim: number) {
    super();
    this.norm1 = new ChannelNorm(inDim);
    this.conv1 = new CausalConv3d(inDim, outDim, 3);
    this.norm2 = new ChannelNorm(outDim);
    this.conv2 = new CausalConv3d(outDim, outDim, 3);
    this.conv_shortcut = inDim === outDim ? undefined : new CausalConv3d(inDim, outDim, 1);
  }

  /** [B C T H W] -> [B C' T H W] */
  forward(x: Tensor, chunk: Chunk): Tensor {
    const h = this.conv1.forward(this.norm1.forward(x, { silu: true }), chunk);
    return this.conv2
      .forward(this.norm2.forward(h, { silu: true }), chunk)
      .add(this.conv_shortcut?.forward(x, chunk) ?? x);
  }
}

/** Self-attention of one head among the pixels of each frame. */
export class FrameAttention extends Module {
  readonly norm: ChannelNorm;
  readonly to_qkv: Conv2d;
  readonly proj: Conv2d;

  constructor(dim: number) {
    super();
    this.norm = new ChannelNorm(dim, 2);
    this.to_qkv = new Conv2d(dim, 3 * dim, 1);
    this.proj = new Conv2d(dim, dim, 1);
  }

  /** [B C T H W] -> [B C T H W] */
  forward(x: Tensor): Tensor {
    const [B, C, T, H, W] = x.shape as [number, number, number, number, number];
    const pixels = this.norm
      .forward(x)
      .permute([0, 2, 3, 4, 1])
      .reshape([B * T, 1, H * W, C]);
    const [q, k, v] = pointwise(this.to_qkv, pixels).chunk(3, -1) as [Tensor, Tensor, Tensor];
    const seen = pointwise(this.proj, scaledDotProductAttention(q, k, v));
    return seen.reshape([B, T, H, W, C]).permute([0, 4, 1, 2, 3]).add(x);
  }
}

/** A 1x1 convolution on channels-last data is a linear layer. */
const pointwise = (conv: Conv2d, x: Tensor): Tensor => linear(x, conv.weight.flatten(1), conv.bias);

/** Every frame as an image: [B C T H W] -> [B*T C H W], and back. */
const perFrame = (x: Tensor, image: (frames: Tensor) => Tensor): Tensor => {
  const [B, C, T, H, W] = x.shape as [number, number, number, number, number];
  const y = image(x.transpose(1, 2).reshape([B * T, C, H, W]));
  return y.reshape([B, T, ...y.shape.slice(1)]).transpose(1, 2);
};

/** Halves the sides and, with `time`, the frames. The first frame of a clip stays alone: T = 1 + 2k -> 1 + k. */
export class Downsample extends Module {
  readonly resample: readonly [undefined, Conv2d];
  readonly time_conv: Conv3d | undefined;

  constructor(dim: number, time: boolean) {
    super();
    this.resample = [undefined, new Conv2d(dim, dim, 3, { stride: 2 })];
    this.time_conv = time ? new Conv3d(dim, dim, [3, 1, 1], { stride: [2, 1, 1] }) : undefined;
  }

  forward(x: Tensor, chunk: Chunk): Tensor {
    // Right and bottom get the zero row: the reference pads (0, 1, 0, 1).
    const small = perFrame(x, (frames) => this.resample[1].forward(pad(frames, [0, 1, 0, 1])));
    if (this.time_conv === undefined) return small;
    const last = chunk.exchange(this, small.narrow(2, small.size(2) - 1, 1));
    if (last !== undefined) return this.time_conv.forward(cat([last, small], 2));
    const first = small.narrow(2, 0, 1);
    return small.size(2) === 1 ? first : cat([first, this.time_conv.forward(small)], 2);
  }
}

/** Doubles the sides and, with `time`, the frames. The first frame of a clip stays alone: T = 1 + k -> 1 + 2k. */
export class Upsample extends Module {
  readonly resample: readonly [undefined, Conv2d];
  readonly time_conv: CausalConv3d | undefined;

  constructor(dim: number, outDim: number, time: boolean) {
    super();
    this.resample = [undefined, new Conv2d(dim, outDim, 3, { padding: 1 })];
    this.time_conv = time ? new CausalConv3d(dim, 2 * dim, [3, 1, 1]) : undefined;
  }

  forward(x: Tensor, chunk: Chunk): Tensor {
    const y = this.time_conv === undefined ? x : this.#doubleFrames(this.time_conv, x, chunk);
    return perFrame(y, (frames) => this.resample[1].forward(interpolate(frames, { scale: 2, mode: "nearest-exact" })));
  }

  /** The time convolution never sees the clip's first frame, not even as the past of the second. */
  #doubleFrames(conv: CausalConv3d, x: Tensor, chunk: Chunk): Tensor {
    const first = chunk.isFirst ? x.narrow(2, 0, 1) : undefined;
    const rest = first === undefined ? x : x.narrow(2, 1, x.size(2) - 1);
    if (rest.size(2) === 0) return x;
    const [B, C, T, H, W] = rest.shape as [number, number, number, number, number];
    // features are ordered (which of the two frames, channel)
    const pairs = conv.forward(rest, chunk).reshape([B, 2, C, T, H, W]);
    const doubled = pairs.permute([0, 2, 3, 1, 4, 5]).reshape([B, C, 2 * T, H, W]);
    return first === undefined ? doubled : cat([first, doubled], 2);
  }
}

/** Wan 2.2's way around a level that shrinks: frames and pixels folded into channels, then averaged in groups. */
export function averageDown(x: Tensor, outDim: number, ft: number, fs: number): Tensor {
  const [B, C, frames, H, W] = x.shape as [number, number, number, number, number];
  const alone = (ft - (frames % ft)) % ft; // before the clip's first frame there is black
  const T = (frames + alone) / ft;
  return pad(x, [0, 0, 0, 0, alone, 0])
    .reshape([B, C, T, ft, H / fs, fs, W / fs, fs])
    .permute([0, 1, 3, 5, 7, 2, 4, 6])
    .reshape([B, outDim, (C * ft * fs * fs) / outDim, T, H / fs, W / fs])
    .mean(2);
}

/** Wan 2.2's way around a level that grows: channels repeated and unfolded into frames and pixels. */
export function repeatUp(x: Tensor, outDim: number, ft: number, fs: number, chunk: Chunk): Tensor {
  const [B, C, T, H, W] = x.shape as [number, number, number, number, number];
  const grown = x
    .repeatInterleave((outDim * ft * fs * fs) / C, 1)
    .reshape([B, outDim, ft, fs, fs, T, H, W])
    .permute([0, 1, 5, 2, 6, 3, 7, 4])
    .reshape([B, outDim, T * ft, H * fs, W * fs]);
  return chunk.isFirst ? grown.narrow(2, ft - 1, T * ft - (ft - 1)) : grown;
}
