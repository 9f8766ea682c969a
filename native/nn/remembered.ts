// What layers make of an input that stays the same from call to call, such as the text of a prompt in every denoising step.
import { isGradEnabled } from "../autograd.ts";
import { derived } from "../derived.ts";
import type { Tensor } from "../tensor.ts";
import { Adaptable } from "./lowrank.ts";
import type { Module } from "./module.ts";

/**
 * What `modules` make of `input`, kept with it (and freed with it) while input, weights and what rides on the layers stay
 * as they are; where a graph may be recorded, made anew. `key` tells several results of one input apart.
 */
export function remembered(
  input: Tensor,
  key: object,
  modules: readonly Module[],
  make: () => readonly Tensor[],
): readonly Tensor[] {
  return isGradEnabled() ? make() : derived(input, key, [input, ...modules.flatMap(stateOf)], make);
}

/** Everything that a module's result depends on beside its input. */
function stateOf(module: Module): (Tensor | number | null)[] {
  const state: (Tensor | number | null)[] = [...module.parameters()];
  for (const [, layer] of module.namedModules()) {
    if (!(layer instanceof Adaptable)) continue;
    for (const { down, up, scale, bias = null, biasScale = 1 } of layer.additions)
      state.push(down, up, scale, bias, biasScale);
  }
  return state;
}
