/** Where VAE training goes on after a kill: everything that decides the next step, in one file written whole or not at all. */
import { existsSync } from "node:fs";
import {
  type Generator,
  type Module,
  noGrad,
  openSafetensors,
  saveSafetensors,
  scope,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import type { AdamW, Ema } from "../../native/optim/index.ts";

export interface Resumable {
  readonly module: Module;
  readonly optimizer: AdamW;
  readonly ema: Ema;
  readonly random: Generator;
}

/** Saves the state before step `step`. Optimiser and average name a parameter as the module does. */
export function saveState(path: string, step: number, { module, optimizer, ema, random }: Resumable): void {
  scope(() => {
    const under = (prefix: string, tensors: Iterable<readonly [string, Tensor]>): [string, Tensor][] =>
      [...tensors].map(([name, t]) => [`${prefix}.${name}`, t.detach()]);
    saveSafetensors(
      path,
      Object.fromEntries([
        ...under("weights", module.stateDict()),
        ...under("optimizer", Object.entries(optimizer.stateDict())),
        ...under("average", Object.entries(ema.stateDict())),
        ["random", tensor(random.getState(), { dtype: "uint8" })],
      ]),
      { step: String(step) },
    );
  });
}

/** Restores what `saveState` wrote; the step to go on with, 0 when there is nothing. */
export function loadState(path: string, { module, optimizer, ema, random }: Resumable): number {
  if (!existsSync(path)) return 0;
  using file = openSafetensors(path);
  const under = (prefix: string) => ({
    keys: file.keys.filter((key) => key.startsWith(`${prefix}.`)).map((key) => key.slice(prefix.length + 1)),
    get: (key: string) => file.get(`${prefix}.${key}`),
  });
  const weights = under("weights");
  noGrad(() =>
    scope(() => {
      for (const [name, weight] of module.stateDict()) weight.copy_(weights.get(name));
      random.setState(file.get("random").bytes());
    }),
  );
  optimizer.loadStateDict(under("optimizer"));
  ema.loadStateDict(under("average"));
  return Number(file.metadata["step"]);
}
