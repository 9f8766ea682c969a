// Gradient modes and gradients as values.
import { addon } from "./addon.ts";
import { EngineError } from "./errors.ts";
import { Tensor } from "./tensor.ts";

function withGrad<T>(on: boolean, what: string, fn: () => T): T {
  const native = addon();
  const before = native.setGradEnabled(on);
  try {
    return synchronous(what, fn());
  } finally {
    native.setGradEnabled(before);
  }
}

function synchronous<T>(what: string, result: T): T {
  if (result instanceof Promise) {
    throw new EngineError(
      "scope_async",
      `${what}() was given an async function; its mode would end at the first await`,
    );
  }
  return result;
}

/** Runs `fn` (synchronous) without recording a graph. */
export function noGrad<T>(fn: () => T): T {
  return withGrad(false, "noGrad", fn);
}

/** Runs `fn` (synchronous) with recording on, inside a noGrad. */
export function enableGrad<T>(fn: () => T): T {
  return withGrad(true, "enableGrad", fn);
}

/** Runs `fn` (synchronous) in inference mode: no graph, no version counters; its tensors can never be trained on. */
export function inferenceMode<T>(fn: () => T): T {
  const native = addon();
  native.enterInference();
  try {
    return synchronous("inferenceMode", fn());
  } finally {
    native.leaveInference();
  }
}

export function isGradEnabled(): boolean {
  return addon().gradEnabled();
}

export interface GradOptions {
  gradOutputs?: readonly (Tensor | null)[];
  retainGraph?: boolean;
  createGraph?: boolean;
}

/** d outputs / d inputs, as new tensors; nothing is accumulated. An input that was not used is an error. */
export function grad(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): Tensor[] {
  return gradOrNull(outputs, inputs, options, false) as Tensor[];
}

/** The same; an input that was not used gives null. */
export function gradAllowUnused(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): (Tensor | null)[] {
  return gradOrNull(outputs, inputs, options, true);
}

function gradOrNull(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  { gradOutputs, createGraph = false, retainGraph = createGraph }: GradOptions,
  allowUnused: boolean,
): (Tensor | null)[] {
  const outs = outputs instanceof Tensor ? [outputs] : outputs;
  return addon()
    .gradOf(
      handles(outs),
      handles(inputs),
      gradOutputs ? handles(gradOutputs) : [],
      retainGraph,
      createGraph,
      allowUnused,
    )
    .map((h) => (h === 0 ? null : new Tensor(h)));
}

/** backward() of several outputs at once; with `inputs`, gradients accumulate only into these. */
export function backward(
  outputs: readonly Tensor[],
  gradients: readonly (Tensor | null)[] = [],
  { inputs = [], retainGraph = false }: { inputs?: readonly Tensor[]; retainGraph?: boolean } = {},
): void {
  addon().backward(handles(outputs), handles(gradients), retainGraph, false, handles(inputs));
}

function handles(tensors: readonly (Tensor | null)[]): number[] {
  return tensors.map((t) => {
    if (t === null) return 0;
    if (t.handle === 0) throw t.deadError();
    return t.handle;
  });
}
