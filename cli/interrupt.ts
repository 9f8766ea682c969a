/** What Ctrl-C means while a job is watched: leave it, unless it was asked to end, by a flag or by pressing twice. */

export type Wish = "detach" | "cancel";

const TWICE_MS = 2000;

export interface InterruptOptions {
  readonly cancel: boolean;
  /** Only a person presses twice; a program that sends a signal means it once. */
  readonly interactive: boolean;
  /** Told after the first press on a terminal. */
  onFirst(): void;
}

/**
 * Resolves with what the person wants. On a terminal the first press waits for a second one, then detaches.
 * SIGTERM and SIGHUP detach at once: a closed terminal must not end hours of work.
 */
export class Interrupt implements Disposable {
  readonly wish: Promise<Wish>;
  #timer: Timer | null = null;
  #listeners: (readonly [NodeJS.Signals, () => void])[] = [];

  constructor({ cancel, interactive, onFirst }: InterruptOptions) {
    const { promise, resolve } = Promise.withResolvers<Wish>();
    this.wish = promise;
    const pressed = (): void => {
      if (cancel || this.#timer !== null) resolve("cancel");
      else if (!interactive) resolve("detach");
      else {
        this.#timer = setTimeout(() => resolve("detach"), TWICE_MS);
        onFirst();
      }
    };
    this.#listeners = [
      ["SIGINT", pressed],
      ["SIGTERM", () => resolve("detach")],
      ["SIGHUP", () => resolve("detach")],
    ];
    for (const [signal, listener] of this.#listeners) process.on(signal, listener);
  }

  [Symbol.dispose](): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const [signal, listener] of this.#listeners) process.off(signal, listener);
  }
}
