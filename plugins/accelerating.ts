/** What accelerators have in common: an option, and what they know of the passes so far. */
import { z } from "zod";
import type { PassOf } from "./sampling.ts";

export const MEASURE = z
  .boolean()
  .default(false)
  .describe("make each sample a second time without the cache, and say how far off it is and what motion was lost");

/** Of every prompt's passes through the network in use, under keys that are the same when a killed sample goes on. */
export class ByPass<Known> implements Disposable {
  readonly #all = new Map<string, Known>();
  readonly #none: () => Known;
  readonly #forget: (known: Known) => void;

  /** `none` is what is known at first; `forget` frees what it came to hold. */
  constructor(none: () => Known, forget: (known: Known) => void) {
    this.#none = none;
    this.#forget = forget;
  }

  /** What is known of such passes. That of the other of two networks, which has had its turn, is forgotten. */
  of({ network, branch, call }: PassOf): Known {
    for (const [key, known] of this.#all)
      if (!key.startsWith(`${network} `)) {
        this.#forget(known);
        this.#all.delete(key);
      }
    const key = `${network} ${branch} ${call}`;
    const known = this.#all.get(key) ?? this.#none();
    this.#all.set(key, known);
    return known;
  }

  set(key: string, known: Known): void {
    this.#all.set(key, known);
  }
  [Symbol.iterator](): MapIterator<[string, Known]> {
    return this.#all[Symbol.iterator]();
  }

  [Symbol.dispose](): void {
    for (const known of this.#all.values()) this.#forget(known);
    this.#all.clear();
  }
}
