// Exponential moving average of weights, in float32.
import { noGrad } from "../autograd.ts";
import { call } from "../call.ts";
import { EngineError } from "../errors.ts";
import type { WeightSource } from "../nn/module.ts";
import { table } from "../schema.ts";
import { keep, scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { isSource } from "./adamw.ts";
import { type Named, named, type Parameters, stored } from "./state.ts";

const A = table("_foreach_lerp_.Scalar");

export class Ema implements Disposable {
  readonly decay: number;
  readonly #params: Named[];
  readonly #shadow: Tensor[];

  /** Starts at the weights as they are now. */
  constructor(params: Parameters, decay: number) {
    if (!(decay >= 0 && decay <= 1)) throw new EngineError("op_arguments", `EMA: decay ${decay} is outside 0 .. 1`);
    this.decay = decay;
    this.#params = named(params);
    this.#shadow = noGrad(() =>
      this.#params.map(([, p]) => keep(scope(() => p.detach().to({ dtype: "float32", copy: true })))),
    );
  }

  /** average = decay * average + (1 - decay) * weight; a schedule may give this step's decay. */
  update(decay = this.decay): void {
    noGrad(() =>
      scope(() => {
        const now = this.#params.map(([, p]) => (p.dtype === "float32" ? p : p.to("float32")));
        call(A["_foreach_lerp_.Scalar"], this.#shadow, now, 1 - decay);
      }),
    );
  }

  /** Writes the average over the weights. */
  copyTo(params: Parameters = this.#params): void {
    const averages = this.stateDict();
    noGrad(() => {
      for (const [name, p] of named(params)) {
        const average = averages[name];
        if (!average) throw new EngineError("op_arguments", `EMA: no average of ${name}`);
        p.copy_(average);
      }
    });
  }

  /** Runs `fn` with the averages in the weights' place, and puts the weights back, also after an await. */
  async swapped<T>(fn: () => T | Promise<T>): Promise<T> {
    const kept = noGrad(() => this.#params.map(([, p]) => keep(scope(() => p.detach().clone()))));
    try {
      this.copyTo();
      return await fn();
    } finally {
      noGrad(() => {
        this.#params.forEach(([, p], i) => {
          p.copy_(kept[i] as Tensor);
        });
      });
      for (const t of kept) t.dispose();
    }
  }

  /** The averages by name; they stay the EMA's. */
  stateDict(): Record<string, Tensor> {
    return Object.fromEntries(this.#params.map(([name], i) => [name, this.#shadow[i] as Tensor]));
  }

  loadStateDict(saved: Record<string, Tensor> | WeightSource): void {
    const source: WeightSource = isSource(saved) ? saved : { keys: Object.keys(saved), get: (k) => saved[k] as Tensor };
    const keys = new Set(source.keys);
    noGrad(() => {
      this.#params.forEach(([name], i) => {
        const shadow = this.#shadow[i] as Tensor;
        scope(() => shadow.copy_(stored(source, keys, name, shadow.shape)));
      });
    });
  }

  dispose(): void {
    for (const t of this.#shadow) t.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
