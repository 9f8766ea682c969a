// The linear layer, and what inference on a CPU makes of it: weights kept a second time in oneDNN's own layout.
import { totalmem } from "node:os";
import { one } from "../call.ts";
import { derived } from "../derived.ts";
import type { DType } from "../dtype.ts";
import { linear } from "../functional.ts";
import { cat } from "../ops.ts";
import { matmulPolicy } from "../precision.ts";
import { deviceCount } from "../runtime.ts";
import { schema } from "../schema.ts";
import { scope } from "../scope.ts";
import { meantBy } from "../standin.ts";
import type { Device, Tensor } from "../tensor.ts";
import { geluTanh } from "./fused.ts";
import { fusible } from "./fusion.ts";
import { fanInBias, type Init, kaimingUniformInit } from "./init.ts";
import { Adaptable } from "./lowrank.ts";
import type { Module } from "./module.ts";
import type { Parameter } from "./parameter.ts";
import { type Quantisable, quantised, quantisedLinear, type WeightForm } from "./quantised.ts";

const REORDER = schema("mkldnn::_reorder_linear_weight");
const POINTWISE = schema("mkldnn::_linear_pointwise");

export interface LinearOptions {
  bias?: boolean;
  init?: Init;
  biasInit?: Init;
  /** Its weight is never kept in 8 bits. */
  precise?: boolean;
}

/** x [..., in] -> [..., out] */
export class Linear extends Adaptable implements Quantisable {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  /** [out, 1], where the weight is kept in 8 bits. */
  weight_scale: Parameter | null = null;
  readonly precise: boolean;
  #computesIn: DType | null = null;
  /** Whether the weights may be kept twice; see `packLinears`. */
  packs = false;

  constructor(
    inFeatures: number,
    outFeatures: number,
    { bias = true, init = kaimingUniformInit, biasInit = fanInBias(inFeatures), precise = false }: LinearOptions = {},
  ) {
    super();
    this.precise = precise;
    this.weight = this.parameter([outFeatures, inFeatures], init);
    this.bias = bias ? this.parameter([outFeatures], biasInit) : null;
  }

  forward(x: Tensor): Tensor {
    return this.adapt(x, this.#own(x));
  }
  #own(x: Tensor): Tensor {
    if (this.weight_scale !== null) return quantisedLinear(x, this.weight, this.weight_scale, this.bias);
    return packable([this], x) ? packed([this], this, x) : linear(x, this.weight, this.bias);
  }

  override get dtype(): DType {
    return this.#computesIn ?? super.dtype;
  }
  quantise(weight: Tensor, form: WeightForm, { dtype, device }: { dtype: DType; device?: Device | undefined }): void {
    scope(() => {
      const [values, scale] = quantised(weight, form, device);
      this.weight.materialise(values);
      this.weight_scale ??= this.buffer(scale.shape);
      this.weight_scale.materialise(scale);
    });
    this.#computesIn = dtype;
  }
  protected override lowRank(x: Tensor, down: Tensor, up: Tensor, scale: number): Tensor {
    return linear(linear(x, down, null).mul(scale), up, null);
  }
  protected override spread(bias: Tensor): Tensor {
    return bias;
  }
}

/**
 * Lets every linear layer below `module` keep its weights a second time, as oneDNN's products want them: libtorch would
 * rearrange them anew in each call (bf16, 1536 rows of 1536 into 8960 columns: 50 ms, and 34 with GELU to come inside; in float32
 * nothing is gained and nothing kept). For networks that are called many times on a CPU; where a graph is recorded nothing changes.
 */
export function packLinears(module: Module): void {
  for (const [, each] of module.namedModules()) if (each instanceof Linear) each.packs = true;
}

/**
 * Whether a network of so many bytes of weights should: on a machine without a GPU, while they take up to a quarter of its
 * memory. A fact of machine and checkpoint only, so that a job that is resumed computes the same numbers.
 */
export function packingPays(bytes: number): boolean {
  return deviceCount() === 0 && bytes <= totalmem() / 4;
}

/** Several layers on one input x [..., in] -> their results in order; packed, their weights stand side by side in one product. */
export function linears(layers: readonly Linear[], x: Tensor): Tensor[] {
  if (!packable(layers, x)) return layers.map((layer) => layer.forward(x));
  return scope(() => {
    const widths = layers.map(({ weight }) => weight.size(0));
    const parts = packed(layers, layers, x).split(widths, -1);
    return layers.map((layer, i) => layer.adapt(x, parts[i] as Tensor));
  });
}

/** GELU in its tanh form of a layer's result; packed, inside the product. */
export function linearGelu(layer: Linear, x: Tensor): Tensor {
  return scope(() =>
    packable([layer], x) && !layer.adapted ? packed([layer], layer, x, "gelu") : geluTanh(layer.forward(x)),
  );
}

function packable(layers: readonly Linear[], x: Tensor): boolean {
  if (
    !layers.every(({ packs }) => packs) ||
    x.dtype !== "bfloat16" ||
    meantBy(x.device) !== "cpu" ||
    matmulPolicy() !== null
  )
    return false;
  return layers.every(
    ({ weight, bias }) =>
      weight.dtype === x.dtype && (bias === null) === (layers[0]?.bias === null) && fusible(x, weight, bias),
  );
}

/** `key` stands for this choice of layers. */
function packed(layers: readonly Linear[], key: object, x: Tensor, activation: "none" | "gelu" = "none"): Tensor {
  const first = layers[0] as Linear;
  const from = layers.flatMap(({ weight, bias }) => [weight, bias]);
  const [weight, bias] = derived(first.weight, key, from, () => {
    const joined = (parts: (Tensor | null)[]): Tensor =>
      parts.length === 1 ? (parts[0] as Tensor) : cat(parts as Tensor[]);
    const bias = first.bias === null ? [] : [joined(layers.map((layer) => layer.bias)).detach()];
    return [one(REORDER, joined(layers.map((layer) => layer.weight)).detach()), ...bias];
  }) as [Tensor, Tensor | undefined];
  return one(POINTWISE, x, weight, bias ?? null, activation, [], activation === "gelu" ? "tanh" : "");
}
