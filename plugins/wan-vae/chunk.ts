/**
 * One chunk of a clip on its way through the network, and what the layers remember of the chunks before it.
 *
 * A whole clip is a single chunk that nobody needs to remember; a long one goes through in several, and every causal layer
 * keeps the last frames it saw. Both give the same frames (Wan 4.1, feature cache).
 */
import { cat, keep, pad, type Tensor } from "../../native/index.ts";

export type Tap = (name: string, value: Tensor) => void;

export interface Chunk {
  /** The chunk that starts with the clip's first frame. */
  readonly isFirst: boolean;
  /** x [B C T H W] -> [B C before+T H W]: the frames that came before, zeros where there were none. */
  withPast(layer: object, x: Tensor, before: number): Tensor;
  /** Remembers `frames` for the next chunk and gives back what the last one left, if there was one. */
  exchange(layer: object, frames: Tensor): Tensor | undefined;
  /** Shows an intermediate result to whoever asked. */
  tap(name: string, value: Tensor): void;
}

/** A whole clip at once. */
export const whole: Chunk = {
  isFirst: true,
  withPast: (_layer, x, before) => pad(x, [0, 0, 0, 0, before, 0]),
  exchange: () => undefined,
  tap: () => undefined,
};

/** The memory of one clip that goes through in several chunks. Owns what it remembers until disposed. */
export class Chunks implements Chunk, Disposable {
  readonly #past = new Map<object, Tensor>();
  readonly #onTap: Tap | undefined;
  #count = 0;
  #position = 0;

  constructor(onTap?: Tap) {
    this.#onTap = onTap;
  }

  get isFirst(): boolean {
    return this.#position === 0;
  }

  /** Latent frames that are done. */
  get position(): number {
    return this.#position;
  }

  /** The chunk just done, which reached up to latent frame `position`, is now the past. */
  next(position: number): void {
    this.#count++;
    this.#position = position;
  }

  /** What each layer remembers; borrowed. */
  get past(): ReadonlyMap<object, Tensor> {
    return this.#past;
  }

  /** Goes on after `position` with what the layers remembered then; copies. */
  restore(position: number, past: ReadonlyMap<object, Tensor>): void {
    this.#position = position;
    for (const [layer, frames] of past) this.#remember(layer, frames);
  }

  withPast(layer: object, x: Tensor, before: number): Tensor {
    const past = this.#past.get(layer);
    const seen = past === undefined ? pad(x, [0, 0, 0, 0, before, 0]) : cat([past, x], 2);
    this.#remember(layer, seen.narrow(2, seen.size(2) - before, before));
    return seen;
  }

  exchange(layer: object, frames: Tensor): Tensor | undefined {
    const past = this.#past.get(layer)?.clone();
    this.#remember(layer, frames);
    return past;
  }

  tap(name: string, value: Tensor): void {
    this.#onTap?.(`${name}#${this.#count}`, value);
  }

  /** A copy: a view would hold the whole chunk in memory. */
  #remember(layer: object, frames: Tensor): void {
    this.#past.get(layer)?.dispose();
    this.#past.set(layer, keep(frames.clone()));
  }

  [Symbol.dispose](): void {
    for (const frames of this.#past.values()) frames.dispose();
    this.#past.clear();
  }
}
