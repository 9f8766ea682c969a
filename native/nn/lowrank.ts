// Small weights beside a layer's own, on for the length of one synchronous call: several jobs share one network.
import type { DType } from "../dtype.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { Module } from "./module.ts";
import type { Parameter } from "./parameter.ts";

/** y + scale * up(down(x)) + biasScale * bias (LoRA, Hu et al. 2021, eq. 3). */
export interface LowRank {
  /** [r, in]; for a convolution its kernel [r, C, ...]. */
  readonly down: Tensor;
  /** [out, r] */
  readonly up: Tensor;
  readonly scale: number;
  /** [out] */
  readonly bias?: Tensor | undefined;
  readonly biasScale?: number | undefined;
}

const NONE: readonly LowRank[] = [];

/** A layer that can be added to. Code that uses its weight without going through `forward` leaves additions out. */
export abstract class Adaptable extends Module {
  abstract readonly weight: Parameter;
  #additions: readonly LowRank[] = NONE;

  /** What it computes in, and what is added to it. */
  get dtype(): DType {
    return this.weight.dtype;
  }
  /** Whether anything rides on this layer now. */
  get adapted(): boolean {
    return this.#additions.length > 0;
  }
  /** What rides on it now. */
  get additions(): readonly LowRank[] {
    return this.#additions;
  }

  /** The layer's own output y for x, with what is on. */
  adapt(x: Tensor, y: Tensor): Tensor {
    if (this.#additions.length === 0) return y;
    return scope(() =>
      this.#additions.reduce((sum, { down, up, scale, bias, biasScale = 1 }) => {
        const added = sum.add(this.lowRank(x, down, up, scale));
        return bias === undefined ? added : added.add(this.spread(bias.mul(biasScale)));
      }, y),
    );
  }

  /** scale * up(down(x)) */
  protected abstract lowRank(x: Tensor, down: Tensor, up: Tensor, scale: number): Tensor;
  /** A value an output channel [out], ready to be added to the output. */
  protected abstract spread(bias: Tensor): Tensor;

  /** @internal */
  push(addition: LowRank): void {
    this.#additions = [...this.#additions, addition];
  }
  /** @internal Takes off what was pushed last. */
  pop(): void {
    this.#additions = this.#additions.length === 1 ? NONE : this.#additions.slice(0, -1);
  }
}

/** Runs `fn` (synchronous) with additions on; they nest, and all of them add up. */
export function withLowRank<T>(additions: ReadonlyMap<Adaptable, LowRank>, fn: () => T): T {
  for (const [layer, addition] of additions) layer.push(addition);
  try {
    return fn();
  } finally {
    for (const layer of additions.keys()) layer.pop();
  }
}

/** weight + scale * up down, summed in float32, in the dtype of the weight: the layer with the addition made its own. */
export function fused(weight: Tensor, { down, up, scale }: LowRank): Tensor {
  return scope(() => {
    const delta = up.float().flatten(1).matmul(down.float().flatten(1)).mul(scale);
    return weight.float().add(delta.view(weight.shape)).to(weight.dtype);
  });
}
