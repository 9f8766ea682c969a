/**
 * The parts of RAFT (Teed & Deng 2020, arXiv 2003.12039), named by torchvision's keys.
 * Axes: B pairs of images, C channels, H W rows and columns, h w the same at an eighth, D features.
 */
import {
  arange,
  avgPool2d,
  Conv2d,
  cat,
  gridSample,
  groupNorm,
  Module,
  onesInit,
  op,
  type Parameter,
  scope,
  stack,
  type Tensor,
  zerosInit,
} from "../../native/index.ts";
import type { EncoderShape, RaftShape } from "./params.ts";

type Norm = EncoderShape["norm"];
/** torch's eps of both norms. */
const EPS = 1e-5;

const batchNorm = op("aten::batch_norm");

/** Statistics of the training set, as stored: this network is not trained here. */
class BatchNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly running_mean: Parameter;
  readonly running_var: Parameter;

  constructor(channels: number) {
    super();
    this.weight = this.parameter([channels], onesInit);
    this.bias = this.parameter([channels], zerosInit);
    this.running_mean = this.buffer([channels], zerosInit);
    this.running_var = this.buffer([channels], onesInit);
  }

  forward(x: Tensor): Tensor {
    return batchNorm(x, this.weight, this.bias, this.running_mean, this.running_var, false, 0, EPS, false);
  }
}

/** convolution, norm, ReLU, at `convnormrelu.0` and `.1`; the same size out when the stride is 1. */
type ConvNorm = readonly [Conv2d, ...BatchNorm[]];
const convNorm = (from: number, to: number, kernel: number, norm: Norm, stride = 1): ConvNorm => [
  new Conv2d(from, to, kernel, { stride, padding: (kernel - 1) >> 1 }),
  ...(norm === "batch" ? [new BatchNorm(to)] : []),
];
function normed([conv, batch]: ConvNorm, x: Tensor, norm: Norm): Tensor {
  const y = conv.forward(x);
  if (batch !== undefined) return batch.forward(y);
  // a channel a group: instance norm
  return norm === "instance" ? groupNorm(y, y.size(1), null, null, EPS) : y;
}

/** Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1 through a quarter of the channels; a residual around them. */
class Block extends Module {
  readonly convnormrelu1: ConvNorm;
  readonly convnormrelu2: ConvNorm;
  readonly convnormrelu3: ConvNorm | undefined;
  readonly downsample: ConvNorm | undefined;
  readonly #norm: Norm;

  constructor(from: number, to: number, { block, norm }: EncoderShape, stride: number) {
    super();
    this.#norm = norm;
    const inner = to >> 2;
    const isNarrow = block === "bottleneck";
    this.convnormrelu1 = isNarrow ? convNorm(from, inner, 1, norm) : convNorm(from, to, 3, norm, stride);
    this.convnormrelu2 = isNarrow ? convNorm(inner, inner, 3, norm, stride) : convNorm(to, to, 3, norm);
    this.convnormrelu3 = isNarrow ? convNorm(inner, to, 1, norm) : undefined;
    this.downsample = stride === 1 ? undefined : convNorm(from, to, 1, norm, stride);
  }

  forward(x: Tensor): Tensor {
    let y = x;
    for (const part of [this.convnormrelu1, this.convnormrelu2, this.convnormrelu3])
      if (part !== undefined) y = normed(part, y, this.#norm).relu();
    return (this.downsample === undefined ? x : normed(this.downsample, x, this.#norm)).add(y).relu();
  }
}

/** images [B 3 H W] -> [B D h w] */
export class Encoder extends Module {
  readonly convnormrelu: ConvNorm;
  readonly layer1: readonly Block[];
  readonly layer2: readonly Block[];
  readonly layer3: readonly Block[];
  readonly conv: Conv2d;
  readonly #norm: Norm;

  constructor(shape: EncoderShape) {
    super();
    const [a, b, c, d, e] = shape.layers;
    this.#norm = shape.norm;
    const pair = (from: number, to: number, stride: number): Block[] => [
      new Block(from, to, shape, stride),
      new Block(to, to, shape, 1),
    ];
    this.convnormrelu = convNorm(3, a, 7, shape.norm, 2);
    this.layer1 = pair(a, b, 1);
    this.layer2 = pair(b, c, 2);
    this.layer3 = pair(c, d, 2);
    this.conv = new Conv2d(d, e, 1);
  }

  forward(images: Tensor): Tensor {
    let x = normed(this.convnormrelu, images, this.#norm).relu();
    for (const block of [...this.layer1, ...this.layer2, ...this.layer3]) x = block.forward(x);
    return this.conv.forward(x);
  }
}

/** How like every place of one image is to every place of the other, at several resolutions of the other (3.2). */
export class Correlation {
  /** [B*h*w 1 h/2^l w/2^l] a level */
  readonly #pyramid: readonly Tensor[];
  readonly #neighbours: Tensor;

  /** a, b [B D h w]. Belongs to the scope that runs. */
  constructor(a: Tensor, b: Tensor, { levels, radius }: Pick<RaftShape, "levels" | "radius">) {
    const [B, D, h, w] = a.shape as [number, number, number, number];
    const volume = a.flatten(2).transpose(1, 2).matmul(b.flatten(2)).div(Math.sqrt(D));
    const pyramid = [volume.view([B * h * w, 1, h, w])];
    for (let level = 1; level < levels; level++)
      pyramid.push(avgPool2d(pyramid[level - 1] as Tensor, 2, { stride: 2 }));
    this.#pyramid = pyramid;
    // the first axis of the window moves along x: torchvision's order, which the weights know
    const side = 2 * radius + 1;
    const steps = arange(-radius, radius + 1, 1, { dtype: "float32", device: a.device });
    const along = (axis: number): Tensor => steps.view(axis === 0 ? [side, 1] : [1, side]).expand([side, side]);
    this.#neighbours = stack([along(0), along(1)], -1).unsqueeze(0); // [1 side side 2]
  }

  /** Places [B 2 h w] as (x, y) -> [B levels*side*side h w] */
  at(places: Tensor): Tensor {
    const [B, , h, w] = places.shape as [number, number, number, number];
    return scope(() => {
      const centres = places.permute([0, 2, 3, 1]).reshape([B * h * w, 1, 1, 2]);
      const seen = this.#pyramid.map((level, l) => {
        const around = centres.div(2 ** l).add(this.#neighbours);
        const [x, y] = around.unbind(-1) as [Tensor, Tensor];
        const unit = (at: Tensor, size: number): Tensor =>
          at
            .mul(2)
            .div(size - 1)
            .sub(1);
        const grid = stack([unit(x, level.size(3)), unit(y, level.size(2))], -1);
        return gridSample(level, grid, { alignCorners: true }).view([B, h, w, -1]);
      });
      return cat(seen, -1).permute([0, 3, 1, 2]).contiguous();
    });
  }
}

/** What the correlations and the flow so far say about motion; the flow itself rides along. */
class MotionEncoder extends Module {
  readonly convcorr1: ConvNorm;
  readonly convcorr2: ConvNorm | undefined;
  readonly convflow1: ConvNorm;
  readonly convflow2: ConvNorm;
  readonly conv: ConvNorm;

  constructor({ motion, levels, radius }: RaftShape) {
    super();
    const [first, second] = motion.corr as [number, number?];
    this.convcorr1 = convNorm(levels * (2 * radius + 1) ** 2, first, 1, "none");
    this.convcorr2 = second === undefined ? undefined : convNorm(first, second, 3, "none");
    this.convflow1 = convNorm(2, motion.flow[0], 7, "none");
    this.convflow2 = convNorm(motion.flow[0], motion.flow[1], 3, "none");
    this.conv = convNorm((second ?? first) + motion.flow[1], motion.out - 2, 3, "none");
  }

  forward(flow: Tensor, correlations: Tensor): Tensor {
    const relu = (part: ConvNorm, x: Tensor): Tensor => part[0].forward(x).relu();
    const near = relu(this.convcorr1, correlations);
    const corr = this.convcorr2 === undefined ? near : relu(this.convcorr2, near);
    return cat([relu(this.conv, cat([corr, relu(this.convflow2, relu(this.convflow1, flow))], 1)), flow], 1);
  }
}

class ConvGru extends Module {
  readonly convz: Conv2d;
  readonly convr: Conv2d;
  readonly convq: Conv2d;

  constructor(input: number, hidden: number, kernel: readonly [number, number]) {
    super();
    const padding = kernel.map((side) => (side - 1) >> 1);
    const conv = (): Conv2d => new Conv2d(hidden + input, hidden, kernel, { padding });
    this.convz = conv();
    this.convr = conv();
    this.convq = conv();
  }

  forward(h: Tensor, x: Tensor): Tensor {
    const hx = cat([h, x], 1);
    const z = this.convz.forward(hx).sigmoid();
    const r = this.convr.forward(hx).sigmoid();
    const q = this.convq.forward(cat([r.mul(h), x], 1)).tanh();
    return z.rsub(1).mul(h).add(z.mul(q));
  }
}

/** One refinement: a new hidden state and what is added to the flow. */
export class UpdateBlock extends Module {
  readonly motion_encoder: MotionEncoder;
  readonly recurrent_block: { readonly convgru1: ConvGru; readonly convgru2: ConvGru | undefined };
  readonly flow_head: { readonly conv1: Conv2d; readonly conv2: Conv2d };

  constructor(shape: RaftShape) {
    super();
    const { hidden, motion, context, kernels, head } = shape;
    const input = motion.out + context.layers[4] - hidden;
    const [first, second] = kernels;
    this.motion_encoder = new MotionEncoder(shape);
    this.recurrent_block = {
      convgru1: new ConvGru(input, hidden, first as readonly [number, number]),
      convgru2: second === undefined ? undefined : new ConvGru(input, hidden, second),
    };
    this.flow_head = {
      conv1: new Conv2d(hidden, head, 3, { padding: 1 }),
      conv2: new Conv2d(head, 2, 3, { padding: 1 }),
    };
  }

  forward(state: Tensor, context: Tensor, correlations: Tensor, flow: Tensor): { state: Tensor; delta: Tensor } {
    const x = cat([context, this.motion_encoder.forward(flow, correlations)], 1);
    const { convgru1, convgru2 } = this.recurrent_block;
    const once = convgru1.forward(state, x);
    const next = convgru2?.forward(once, x) ?? once;
    return { state: next, delta: this.flow_head.conv2.forward(this.flow_head.conv1.forward(next).relu()) };
  }
}

/** Weights of the nine neighbours of each place, for each of its 8 x 8 pixels. */
export class MaskPredictor extends Module {
  readonly convrelu: ConvNorm;
  readonly conv: Conv2d;

  constructor(hidden: number, inner: number) {
    super();
    this.convrelu = convNorm(hidden, inner, 3, "none");
    this.conv = new Conv2d(inner, 8 * 8 * 9, 1);
  }

  /** state [B D h w] -> [B 576 h w] */
  forward(state: Tensor): Tensor {
    // a quarter, as the authors trained it to slow this branch down
    return this.conv.forward(this.convrelu[0].forward(state).relu()).mul(0.25);
  }
}
