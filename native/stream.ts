// Work that runs beside other work on an accelerator: streams, and marks that one of them waits for. On a CPU there is one order.
import { addon } from "./addon.ts";
import type { Device } from "./tensor.ts";

/** All that a device's current stream was given before: others can wait for it, without anybody blocking here. */
export class Mark implements Disposable {
  #id: number;

  private constructor(id: number) {
    this.#id = id;
  }

  static set(device: Device): Mark {
    return new Mark(addon().mark(device));
  }

  /** The current stream goes on when what is marked has been done. */
  wait(): void {
    addon().awaitMark(this.#id);
  }

  [Symbol.dispose](): void {
    if (this.#id !== 0) addon().closeMark(this.#id);
    this.#id = 0;
  }
}

/** A stream of a device beside its own. */
export class Stream implements Disposable {
  #id: number;

  private constructor(id: number) {
    this.#id = id;
  }

  static open(device: Device): Stream {
    return new Stream(addon().openStream(device));
  }

  /** Operators that `fn` (synchronous) calls are given to this stream. */
  run<T>(fn: () => T): T {
    addon().enterStream(this.#id);
    try {
      return fn();
    } finally {
      addon().leaveStream();
    }
  }

  [Symbol.dispose](): void {
    if (this.#id !== 0) addon().closeStream(this.#id);
    this.#id = 0;
  }
}
