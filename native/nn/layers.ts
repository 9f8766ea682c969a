// Layers with weights, named and shaped as PyTorch's, so that checkpoints load key by key.
import { type ConvOptions, conv1d, conv2d, conv3d, embedding, groupNorm, layerNorm, rmsNorm } from "../functional.ts";
import type { Dims, Tensor } from "../tensor.ts";
import { fanInBias, type Init, kaimingUniformInit, normalInit, onesInit, zerosInit } from "./init.ts";
import { Adaptable } from "./lowrank.ts";
import { Module } from "./module.ts";
import type { Parameter } from "./parameter.ts";

export interface ConvLayerOptions extends ConvOptions {
  bias?: boolean;
  init?: Init;
}
function sizes(v: Dims, n: number): readonly number[] {
  return typeof v === "number" ? Array<number>(n).fill(v) : v;
}

abstract class Conv extends Adaptable {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly options: ConvOptions;
  readonly #axes: number;
  protected constructor(axes: number, channelsIn: number, channelsOut: number, kernel: Dims, o: ConvLayerOptions) {
    super();
    const { bias = true, init = kaimingUniformInit, groups = 1, stride, padding, dilation } = o;
    const k = sizes(kernel, axes);
    const fanIn = (channelsIn / groups) * k.reduce((a, b) => a * b, 1);
    this.weight = this.parameter([channelsOut, channelsIn / groups, ...k], init);
    this.bias = bias ? this.parameter([channelsOut], fanInBias(fanIn)) : null;
    this.options = { stride, padding, dilation, groups };
    this.#axes = axes;
  }
  protected abstract convolve(x: Tensor, weight: Tensor, bias: Tensor | null, options: ConvOptions): Tensor;

  forward(x: Tensor): Tensor {
    return this.adapt(x, this.convolve(x, this.weight, this.bias, this.options));
  }
  protected override lowRank(x: Tensor, down: Tensor, up: Tensor, scale: number): Tensor {
    const narrow = this.convolve(x, down, null, this.options).mul(scale);
    return this.convolve(narrow, up.view([up.size(0), up.size(1), ...Array<number>(this.#axes).fill(1)]), null, {});
  }
  protected override spread(bias: Tensor): Tensor {
    return bias.view([-1, ...Array<number>(this.#axes).fill(1)]);
  }
}
/** x [B, C, L] */
export class Conv1d extends Conv {
  constructor(channelsIn: number, channelsOut: number, kernel: Dims, options: ConvLayerOptions = {}) {
    super(1, channelsIn, channelsOut, kernel, options);
  }
  protected override convolve(x: Tensor, weight: Tensor, bias: Tensor | null, options: ConvOptions): Tensor {
    return conv1d(x, weight, bias, options);
  }
}
/** x [B, C, H, W] */
export class Conv2d extends Conv {
  constructor(channelsIn: number, channelsOut: number, kernel: Dims, options: ConvLayerOptions = {}) {
    super(2, channelsIn, channelsOut, kernel, options);
  }
  protected override convolve(x: Tensor, weight: Tensor, bias: Tensor | null, options: ConvOptions): Tensor {
    return conv2d(x, weight, bias, options);
  }
}
/** x [B, C, T, H, W] */
export class Conv3d extends Conv {
  constructor(channelsIn: number, channelsOut: number, kernel: Dims, options: ConvLayerOptions = {}) {
    super(3, channelsIn, channelsOut, kernel, options);
  }
  protected override convolve(x: Tensor, weight: Tensor, bias: Tensor | null, options: ConvOptions): Tensor {
    return conv3d(x, weight, bias, options);
  }
}

/** Over the last axis. */
export class LayerNorm extends Module {
  readonly weight: Parameter | null;
  readonly bias: Parameter | null;
  readonly eps: number;
  readonly dim: number;
  constructor(
    dim: number,
    { eps = 1e-5, affine = true, bias = affine }: { eps?: number; affine?: boolean; bias?: boolean } = {},
  ) {
    super();
    this.dim = dim;
    this.eps = eps;
    this.weight = affine ? this.parameter([dim], onesInit) : null;
    this.bias = bias ? this.parameter([dim], zerosInit) : null;
  }
  forward(x: Tensor): Tensor {
    return layerNorm(x, [this.dim], this.weight, this.bias, this.eps);
  }
}

/** Over the last axis, float32 inside. */
export class RMSNorm extends Module {
  readonly weight: Parameter | null;
  readonly eps: number;
  constructor(dim: number, { eps = 1e-6, affine = true }: { eps?: number; affine?: boolean } = {}) {
    super();
    this.eps = eps;
    this.weight = affine ? this.parameter([dim], onesInit) : null;
  }
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps);
  }
}

/** x [B, C, ...] in `groups` groups of channels. */
export class GroupNorm extends Module {
  readonly weight: Parameter | null;
  readonly bias: Parameter | null;
  readonly groups: number;
  readonly eps: number;
  constructor(
    groups: number,
    channels: number,
    { eps = 1e-5, affine = true }: { eps?: number; affine?: boolean } = {},
  ) {
    super();
    this.groups = groups;
    this.eps = eps;
    this.weight = affine ? this.parameter([channels], onesInit) : null;
    this.bias = affine ? this.parameter([channels], zerosInit) : null;
  }
  forward(x: Tensor): Tensor {
    return groupNorm(x, this.groups, this.weight, this.bias, this.eps);
  }
}

/** ids int64 [...] -> [..., dim] */
export class Embedding extends Module {
  readonly weight: Parameter;
  constructor(n: number, dim: number, { init = normalInit(1) }: { init?: Init } = {}) {
    super();
    this.weight = this.parameter([n, dim], init);
  }
  forward(ids: Tensor): Tensor {
    return embedding(ids, this.weight);
  }
}
