/** The two prompts of a guided step: one pass after the other, or both at once where there are ranks for both. */
import type { Tensor } from "../../../native/index.ts";
import type { DenoiserInput } from "../../../plugins/index.ts";

export type Branch = "positive" | "negative";
interface Network {
  forward(input: DenoiserInput): Tensor;
  /** Several passes side by side, for a network on several replicas. */
  readonly together?: ((passes: readonly DenoiserInput[]) => Tensor[]) | undefined;
}

export class Branches {
  /** Whether the guide wanted the negative prompt in the step before: from that it is known whether to begin with both. */
  #guides = true;

  /** Predictions of one step; called inside its scope. */
  of(network: Network, input: (branch: Branch) => DenoiserInput): (branch: Branch) => Tensor {
    const { together } = network;
    if (together === undefined) return (branch) => network.forward(input(branch));
    const done = new Map<Branch, Tensor>();
    const begin = this.#guides;
    return (branch) => {
      // a step in which nobody asks says nothing about the guide
      if (done.size === 0) this.#guides = false;
      this.#guides ||= branch === "negative";
      const known = done.get(branch);
      if (known !== undefined) return known;
      const wanted: Branch[] = begin && done.size === 0 ? ["positive", "negative"] : [branch];
      const made = together(wanted.map(input));
      for (const [i, each] of wanted.entries()) done.set(each, made[i] as Tensor);
      return done.get(branch) as Tensor;
    };
  }
}
