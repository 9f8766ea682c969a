// Keys and values of the tokens that a decoder has seen.
import { EngineError } from "../errors.ts";
import { empty } from "../ops.ts";
import { keep, scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";

/** Room for `capacity` tokens a row, taken at the first append of each layer; the tensors belong to the cache. */
export class KVCache implements Disposable {
  readonly capacity: number;
  readonly #layers: { k: Tensor; v: Tensor }[] = [];
  #length = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  /** Tokens held; every layer holds as many once a pass is over. */
  get length(): number {
    return this.#length;
  }

  /** k, v [B, H, S, d] of new tokens -> those of all tokens so far [B, H, length + S, d], views of the cache. */
  append(layer: number, k: Tensor, v: Tensor): [Tensor, Tensor] {
    const [B, H, S, d] = k.shape as [number, number, number, number];
    if (this.#length + S > this.capacity)
      throw new EngineError("tensor_shape", `a cache for ${this.capacity} tokens, ${this.#length} + ${S} are needed`);
    const room = (like: Tensor): Tensor =>
      keep(empty([B, H, this.capacity, d], { dtype: like.dtype, device: like.device }));
    this.#layers[layer] ??= { k: room(k), v: room(v) };
    const held = this.#layers[layer];
    return scope(() => {
      held.k.narrow(2, this.#length, S).copy_(k);
      held.v.narrow(2, this.#length, S).copy_(v);
      return [held.k.narrow(2, 0, this.#length + S), held.v.narrow(2, 0, this.#length + S)];
    });
  }

  /** Keys and values of one layer so far, [B, H, length, d] each. */
  layer(layer: number): [Tensor, Tensor] {
    const held = this.#layers[layer];
    if (held === undefined) throw new EngineError("tensor_shape", `the cache holds nothing of layer ${layer}`);
    return [held.k.narrow(2, 0, this.#length), held.v.narrow(2, 0, this.#length)];
  }

  /** After a pass through all layers. */
  advance(tokens: number): void {
    this.#length += tokens;
  }

  [Symbol.dispose](): void {
    for (const { k, v } of this.#layers) {
      k.dispose();
      v.dispose();
    }
    this.#layers.length = 0;
    this.#length = 0;
  }
}
