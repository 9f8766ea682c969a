/** A denoiser's passes, each prompt's recorded once and replayed at every step (`generate --graph`). */
import { Recorded, type Tensor } from "../../../native/index.ts";
import type { Denoiser, DenoiserInput } from "../../../plugins/index.ts";

export class Graphs implements Disposable {
  readonly #network: Denoiser;
  readonly #device: string;
  /** By the text, which a batch has once for each branch. */
  readonly #passes = new Map<Tensor, Recorded>();

  constructor(network: Denoiser, device: string) {
    this.#network = network;
    this.#device = device;
  }

  /** Passes that have been recorded and may be again. */
  get size(): number {
    return this.#passes.size;
  }

  /** Latents and time are what changes from step to step; all else stays as it is for a batch. */
  forward(input: DenoiserInput): Tensor {
    const { latents, t, text } = input;
    for (const [states, pass] of this.#passes) if (states.disposed) this.#drop(states, pass); // an earlier batch's
    let pass = this.#passes.get(text.states);
    if (pass === undefined) {
      const { module } = this.#network;
      const told = [...Object.values(text), ...Object.values(input.text2 ?? {}), ...Object.values(input.known ?? {})];
      pass = new Recorded(
        this.#device,
        [latents, t],
        ([x, time]) => this.#network.forward({ ...input, latents: x as Tensor, t: time as Tensor }),
        () => [...module.parameters(), ...told, ...(input.image === undefined ? [] : [input.image])],
      );
      this.#passes.set(text.states, pass);
    }
    return pass.run([latents, t]);
  }

  [Symbol.dispose](): void {
    for (const [states, pass] of this.#passes) this.#drop(states, pass);
  }

  #drop(states: Tensor, pass: Recorded): void {
    this.#passes.delete(states);
    pass[Symbol.dispose]();
  }
}
