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
  meantBy,
  onesInit,
  op,
  type Parameter,
  pad,
  scaledDotProductAttention,
  scope,
  type Tensor,
} from "../../native/index.ts";
import { type Chunk, whole } from "./chunk.ts";

export type Step = (x: Tensor) => Tensor;

/** x through all steps, each result freed as soon as the next one is made; x itself stays the caller's. */
export function through(x: Tensor, steps: readonly Step[]): Tensor {
  let at = x;
  for (const step of steps) {
    const next = scope(() => step(at));
    if (at !== x && at !== next) at.dispose();
    at = next;
  }
  return at;
}

/** h + x, in the place of h where no graph needs it; h is the caller's own. */
const plus = (h: Tensor, x: Tensor): Tensor => (isGradEnabled() || h.dtype !== x.dtype ? h.add(x) : h.add_(x));

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
    return through(x, this.steps(chunk));
  }

  /** The frames before it put in front, then the convolution: what goes in need not outlive the first. */
  steps(chunk: Chunk): Step[] {
    const convolve: Step = (x) => super.forward(x);
    return this.#before === 0 ? [convolve] : [(x) => chunk.withPast(this, x, this.#before), convolve];
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
    if (!isGradEnabled() && meantBy(x.device) === "cpu") return channelNorm(x, this.gamma.flatten(), { silu });
    // libtorch's own kernel has a backward, and on a GPU is one launch. The reference holds |x| at 1e-12 and above; under
    // the root that is this eps, and a zero vector stays zero.
    const dim = x.size(1);
    const normed = rmsNorm(x.movedim(1, -1), [dim], this.gamma.flatten(), 1e-24 / dim);
    return (silu ? normed.silu() : normed).movedim(-1, 1);
  }
}

/** norm, SiLU, convolution. */
export const activated = (norm: ChannelNorm, conv: CausalConv3d, chunk: Chunk): Step[] => [
  (x) => norm.forward(x, { silu: true }),
  ...conv.steps(chunk),
];

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
    const h = through(x, [...activated(this.norm1, this.conv1, chunk), ...activated(this.norm2, this.conv2, chunk)]);
    return plus(h, this.conv_shortcut?.forward(x, chunk) ?? x);
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
    const h = through(x, [
      (x) => this.norm.forward(x),
      (x) => x.permute([0, 2, 3, 4, 1]).reshape([B * T, 1, H * W, C]),
      (x) => pointwise(this.to_qkv, x),
      (x) => scaledDotProductAttention(...(x.chunk(3, -1) as [Tensor, Tensor, Tensor])),
      (x) => pointwise(this.proj, x),
      (x) => x.reshape([B, T, H, W, C]).permute([0, 4, 1, 2, 3]),
    ]);
    return plus(h, x);
  }
}

/** A 1x1 convolution on channels-last data is a linear layer. */
const pointwise = (conv: Conv2d, x: Tensor): Tensor => linear(x, conv.weight.flatten(1), conv.bias);

/** Every frame as an image: [B C T H W] -> [B*T C H W], and back; channels stay last in memory, without a copy where they are. */
const perFrame = (x: Tensor, image: Step): Tensor => {
  const [B, C, T, H, W] = x.shape as [number, number, number, number, number];
  return through(x, [
    (x) =>
      x
        .movedim(1, -1)
        .contiguous()
        .view([B * T, H, W, C])
        .movedim(-1, 1),
    image,
    (y) => {
      const rows = y.movedim(1, -1);
      return rows.reshape([B, T, ...rows.shape.slice(1)]).movedim(-1, 1);
    },
  ]);
};

/** Elements of a frame from which frames are enlarged one at a time: all of them take eight times their size at once. */
const LARGE_FRAME = 2 ** 22;

/** What `image` makes of x, a frame at a time where frames are large. That follows from a frame alone: the sums stay in one order. */
const bySlabs = (x: Tensor, image: Step): Tensor => {
  const [B, C, T, H, W] = x.shape as [number, number, number, number, number];
  if (isGradEnabled() || T === 1 || B * C * H * W < LARGE_FRAME) return image(x);
  return cat(
    Array.from({ length: T }, (_, t) => scope(() => image(x.narrow(2, t, 1)))),
    2,
  );
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
    const small = perFrame(x, (frames) =>
      through(frames, [(x) => pad(x, [0, 1, 0, 1]), (x) => this.resample[1].forward(x)]),
    );
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
    const { time_conv } = this;
    const enlarge: Step = (x) =>
      perFrame(x, (frames) =>
        through(frames, [
          (x) => interpolate(x, { scale: 2, mode: "nearest-exact" }),
          (x) => this.resample[1].forward(x),
        ]),
      );
    return through(x, [
      (x) => (time_conv === undefined ? x : this.#doubleFrames(time_conv, x, chunk)),
      (x) => bySlabs(x, enlarge),
    ]);
  }

  /** The time convolution never sees the clip's first frame, not even as the past of the second. */
  #doubleFrames(conv: CausalConv3d, x: Tensor, chunk: Chunk): Tensor {
    const first = chunk.isFirst ? x.narrow(2, 0, 1) : undefined;
    const rest = first === undefined ? x : x.narrow(2, 1, x.size(2) - 1);
    if (rest.size(2) === 0) return x;
    const [B, C, T, H, W] = rest.shape as [number, number, number, number, number];
    // features are ordered (which of the two frames, channel)
    const doubled = through(rest, [
      ...conv.steps(chunk),
      (x) =>
        x
          .reshape([B, 2, C, T, H, W])
          .permute([0, 2, 3, 1, 4, 5])
          .reshape([B, C, 2 * T, H, W]),
    ]);
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
