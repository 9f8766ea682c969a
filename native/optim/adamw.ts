// AdamW (Loshchilov and Hutter 2019), decoupled weight decay; the arithmetic is libtorch's fused kernel.
import { noGrad } from "../autograd.ts";
import { call } from "../call.ts";
import { EngineError } from "../errors.ts";
import type { WeightSource } from "../nn/module.ts";
import { zeros, zerosLike } from "../ops.ts";
import { table } from "../schema.ts";
import { keep, scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { named, type Parameters, stored } from "./state.ts";

const A = table("_fused_adamw_", "_foreach_add_.Scalar");

export interface AdamWOptions {
  lr: number;
  betas?: readonly [number, number];
  eps?: number;
  weightDecay?: number;
}
export interface AdamWGroup extends Partial<AdamWOptions> {
  params: Parameters;
}
/** Settings of a group, to be changed between steps by a schedule. */
export interface AdamWSettings {
  lr: number;
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
}

interface Slot {
  name: string;
  param: Tensor;
  /** Allocated at the first step, like PyTorch's. */
  state: State | null;
}
interface State {
  step: Tensor;
  expAvg: Tensor;
  expAvgSq: Tensor;
  /** float32 copy of a parameter kept in another dtype. */
  master: Tensor | null;
}

export class AdamW implements Disposable {
  readonly groups: AdamWSettings[] = [];
  readonly #slots: Slot[][] = [];

  constructor(params: Parameters | readonly AdamWGroup[], options: AdamWOptions) {
    const list = [...params];
    const first = list[0];
    const groups =
      first && "params" in first
        ? (list as AdamWGroup[])
        : [{ params: list as Exclude<(typeof list)[number], AdamWGroup>[] }];
    const seen = new Set<Tensor>();
    for (const g of groups as AdamWGroup[]) {
      this.groups.push({
        lr: g.lr ?? options.lr,
        betas: g.betas ?? options.betas ?? [0.9, 0.999], // defaults of torch.optim.AdamW
        eps: g.eps ?? options.eps ?? 1e-8,
        weightDecay: g.weightDecay ?? options.weightDecay ?? 0.01,
      });
      const slots = named(g.params).map(([name, param]) => ({ name, param, state: null }));
      for (const { name, param } of slots) {
        if (seen.has(param)) throw new EngineError("op_arguments", `AdamW: ${name} is in two groups`);
        seen.add(param);
      }
      this.#slots.push(slots);
    }
  }

  /** The same learning rate for all groups. */
  setLr(lr: number): void {
    for (const g of this.groups) g.lr = lr;
  }

  /** One update of every parameter that has a gradient. */
  step(): void {
    noGrad(() => {
      this.#slots.forEach((slots, i) => {
        scope(() => this.#stepGroup(slots, this.groups[i] as AdamWSettings));
      });
    });
  }

  #stepGroup(slots: Slot[], { lr, betas, eps, weightDecay }: AdamWSettings): void {
    const grads: Tensor[] = [];
    const active: (Slot & { state: State })[] = [];
    for (const slot of slots) {
      const g = slot.param.grad;
      if (g === null) continue;
      slot.state ??= newState(slot.param);
      active.push(slot as Slot & { state: State });
      grads.push(g.dtype === "float32" ? g : g.to("float32"));
    }
    if (active.length === 0) return;
    const weights = active.map((s) => s.state.master ?? s.param);
    const steps = active.map((s) => s.state.step);
    call(A["_foreach_add_.Scalar"], steps, 1);
    call(
      A._fused_adamw_,
      weights,
      grads,
      active.map((s) => s.state.expAvg),
      active.map((s) => s.state.expAvgSq),
      [],
      steps,
      lr,
      betas[0],
      betas[1],
      weightDecay,
      eps,
      false,
      false,
    );
    for (const { param, state } of active) if (state.master) param.copy_(state.master);
  }

  zeroGrad(): void {
    for (const slots of this.#slots) for (const { param } of slots) param.zeroGrad();
  }

  /** Everything an exact resume needs beside the weights; the tensors stay the optimiser's. */
  stateDict(): Record<string, Tensor> {
    const out: Record<string, Tensor> = {};
    for (const { name, state } of this.#slots.flat()) {
      if (!state) continue;
      out[`${name}.step`] = state.step;
      out[`${name}.exp_avg`] = state.expAvg;
      out[`${name}.exp_avg_sq`] = state.expAvgSq;
      if (state.master) out[`${name}.master`] = state.master;
    }
    return out;
  }

  /** From what stateDict() gave; a parameter without an entry starts fresh. */
  loadStateDict(saved: Record<string, Tensor> | WeightSource): void {
    const source: WeightSource = isSource(saved) ? saved : { keys: Object.keys(saved), get: (k) => saved[k] as Tensor };
    const keys = new Set(source.keys);
    const known = new Set<string>();
    noGrad(() => {
      for (const slot of this.#slots.flat()) {
        const parts = ["step", "exp_avg", "exp_avg_sq", "master"].map((p) => `${slot.name}.${p}`);
        for (const k of parts) known.add(k);
        const [step, avg, sq, master] = parts as [string, string, string, string];
        if (!keys.has(step)) {
          freeState(slot);
          continue;
        }
        scope(() => {
          slot.state ??= newState(slot.param);
          const { shape } = slot.param;
          slot.state.step.copy_(stored(source, keys, step, []));
          slot.state.expAvg.copy_(stored(source, keys, avg, shape));
          slot.state.expAvgSq.copy_(stored(source, keys, sq, shape));
          slot.state.master?.copy_(stored(source, keys, master, shape));
        });
      }
    });
    const extra = [...keys].filter((k) => !known.has(k));
    if (extra.length > 0) {
      throw new EngineError(
        "checkpoint_mismatch",
        `the saved optimiser state has unknown entries: ${extra.slice(0, 8).join(", ")}`,
      );
    }
  }

  dispose(): void {
    for (const slot of this.#slots.flat()) freeState(slot);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

export function isSource(saved: Record<string, Tensor> | WeightSource): saved is WeightSource {
  return typeof saved["get"] === "function";
}

function newState(param: Tensor): State {
  const { device } = param;
  const like = () => keep(zerosLike(param, { dtype: "float32" }));
  return {
    step: keep(zeros([], { device })),
    expAvg: like(),
    expAvgSq: like(),
    master: param.dtype === "float32" ? null : keep(scope(() => param.detach().to("float32"))),
  };
}

function freeState(slot: Slot): void {
  if (!slot.state) return;
  for (const t of Object.values(slot.state)) t?.dispose();
  slot.state = null;
}
