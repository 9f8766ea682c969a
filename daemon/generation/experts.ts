/**
 * The networks that denoise one sample: one, or two that share the flow time between them. Of two, one at a time is in
 * use, so that the other may be evicted where memory is short.
 */
import {
  type Context,
  type Denoiser,
  type DenoiserInput,
  type Picks,
  type Used,
  WaverError,
} from "../../plugins/index.ts";
import type { Adapted } from "./adapters.ts";
import type { Component, Pipeline } from "./pipeline.ts";

/** The first denoiser of a model, or the second. */
export type Which = 0 | 1;

interface How {
  open(component: Component): Promise<Used<"family">>;
  /** Small weights that ride on a network just loaded. */
  adapt(network: Denoiser, which: Which): Promise<Adapted>;
  /** Passes of a network that are recorded and replayed, where that is asked for. */
  record?(network: Denoiser): Promise<Recording>;
}

/** Holds the memory of what it has recorded, the network's weights included, until it is disposed. */
type Recording = Pick<Denoiser, "forward"> & Disposable;

interface Held {
  readonly which: Which;
  readonly use: Used<"family">;
  readonly network: Denoiser;
  readonly recording: Recording | undefined;
  forward(input: DenoiserInput): Prediction;
  /** Several passes side by side, where the network is on several replicas. */
  readonly together: ((passes: readonly DenoiserInput[]) => Prediction[]) | undefined;
}
type Prediction = ReturnType<Denoiser["forward"]>;

export class Experts implements Disposable {
  readonly #model: Pipeline;
  readonly #how: How;
  #held: Held | undefined;
  #isSelected = false;

  constructor(model: Pipeline, how: How) {
    this.#model = model;
    this.#how = how;
  }

  /** The one in use; the first where none is yet. What they share (latents, text, conditions) either can say. */
  async any(): Promise<Denoiser> {
    return (this.#held ?? (await this.#take(0))).network;
  }

  /** Makes the one for a flow time the one in use. */
  async select(t: number): Promise<void> {
    const { family2 } = this.#model;
    this.#isSelected = true;
    await this.#take(family2 !== undefined && t < family2.from ? 1 : 0);
  }

  /** What `select` chose; `forward` is the network's with its adapters on. */
  get current(): Pick<Held, "which" | "forward" | "together"> {
    if (this.#held !== undefined && (this.#isSelected || this.#model.family2 === undefined)) return this.#held;
    throw new WaverError("needs_unmet", "this sampler does not announce its steps, as a model of two denoisers needs", {
      hint: "pick another sampler",
    });
  }

  async #take(which: Which): Promise<Held> {
    if (this.#held?.which === which) return this.#held;
    this[Symbol.dispose]();
    const { family, family2 } = this.#model;
    const use = await this.#how.open(which === 1 && family2 !== undefined ? family2 : family);
    const network = await use({});
    const adapted = await this.#how.adapt(network, which);
    const recording = await this.#how.record?.(network);
    const { isSpread } = await import("../runner/ranks.ts");
    this.#held = {
      ...{ which, use, network, recording, forward: (input) => adapted(() => (recording ?? network).forward(input)) },
      together:
        isSpread(network) && network.numReplicas > 1 ? (passes) => adapted(() => network.together(passes)) : undefined,
    };
    return this.#held;
  }

  /** Lets go of the one in use. */
  [Symbol.dispose](): void {
    this.#held?.recording?.[Symbol.dispose]();
    this.#held?.use[Symbol.dispose]();
    this.#held = undefined;
  }
}

/** A network's passes recorded; a cache would have to decide anew in each. */
export async function recording(network: Denoiser, picks: Picks, { device }: Context): Promise<Recording> {
  if (picks["cache"] !== undefined)
    throw new WaverError(
      "invalid_input",
      "a cache decides anew in every step, and a recorded pass is always the same",
      {
        hint: "use one of the two: graph, or cache",
      },
    );
  const { Graphs } = await import("../runner/generation/graphs.ts");
  return new Graphs(network, device);
}
