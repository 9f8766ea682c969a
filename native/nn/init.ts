// How a parameter starts: fills a float32 tensor in place, from an explicit generator.
import type { Generator } from "../generator.ts";
import { normal_, uniform_ } from "../ops.ts";
import type { Tensor } from "../tensor.ts";

export type Init = (t: Tensor, generator: Generator) => void;

/** [fan in, fan out] of a weight [out, in, ...kernel]. */
function fans(t: Tensor): [number, number] {
  const receptive = t.shape.slice(2).reduce((a, b) => a * b, 1);
  return [(t.shape[1] ?? 1) * receptive, (t.shape[0] ?? 1) * receptive];
}

export const zerosInit: Init = (t) => void t.zero_();
export const onesInit: Init = (t) => void t.fill_(1);
export function constantInit(value: number): Init {
  return (t) => void t.fill_(value);
}
export function normalInit(std = 1, mean = 0): Init {
  return (t, g) => void normal_(t, mean, std, g);
}
export function uniformInit(bound: number): Init {
  return (t, g) => void uniform_(t, -bound, bound, g);
}
/** A normal cut at two standard deviations: draws outside are drawn again. */
export function truncNormalInit(std = 0.02): Init {
  return (t, g) => {
    normal_(t, 0, std, g);
    for (;;) {
      using outside = t.abs().gt(2 * std);
      using any = outside.any();
      if (any.item() === 0) return;
      using again = t.clone();
      normal_(again, 0, std, g);
      using mixed = again.where(outside, t);
      t.copy_(mixed);
    }
  };
}
/** Glorot 2010: variance 2 / (fan in + fan out). */
export function xavierUniformInit(gain = 1): Init {
  return (t, g) => {
    const [fanIn, fanOut] = fans(t);
    const bound = gain * Math.sqrt(6 / (fanIn + fanOut));
    uniform_(t, -bound, bound, g);
  };
}
/** PyTorch's default of Linear and Conv, kaiming_uniform(a = sqrt 5): bound 1 / sqrt(fan in). */
export const kaimingUniformInit: Init = (t, g) => {
  const bound = 1 / Math.sqrt(fans(t)[0]);
  uniform_(t, -bound, bound, g);
};
/** PyTorch's default bias beside such a weight. */
export function fanInBias(fanIn: number): Init {
  return uniformInit(1 / Math.sqrt(fanIn));
}
