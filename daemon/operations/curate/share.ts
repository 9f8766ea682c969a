/**
 * One stream of frames for several readers. The next batch is taken when every reader that is still there has taken the
 * last one, so one batch a view is held; readers see the same memory and do not write to it.
 */
import type { FrameBatch } from "../../../plugins/index.ts";

export class Shared {
  readonly #branches: Branch[] = [];

  constructor(private readonly stream: AsyncIterable<FrameBatch>) {}

  /** A reader's own view of the stream; close it when the reader is done, read or not. */
  branch(): Branch {
    const branch = new Branch();
    this.#branches.push(branch);
    return branch;
  }

  /** Moves batches until the stream or the last reader ends. A failure reaches every reader. */
  async pump(): Promise<void> {
    try {
      for await (const batch of this.stream) {
        await Promise.all(this.#branches.map((branch) => branch.push(batch)));
        if (this.#branches.every((branch) => branch.closed)) break;
      }
      for (const branch of this.#branches) branch.end(null);
    } catch (error) {
      for (const branch of this.#branches) branch.end({ error });
    }
  }
}

export class Branch implements AsyncIterable<FrameBatch> {
  #waiting: FrameBatch | null = null;
  #taken: (() => void) | null = null;
  #arrived: (() => void) | null = null;
  #ended: { error: unknown } | "end" | null = null;
  closed = false;

  /** Resolves when the reader has taken the batch or left. */
  push(batch: FrameBatch): Promise<void> {
    if (this.closed) return Promise.resolve();
    this.#waiting = batch;
    const taken = new Promise<void>((resolve) => {
      this.#taken = resolve;
    });
    this.#arrived?.();
    return taken;
  }

  end(failure: { error: unknown } | null): void {
    this.#ended = failure ?? "end";
    this.#arrived?.();
  }

  close(): void {
    this.closed = true;
    this.#waiting = null;
    this.#taken?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<FrameBatch> {
    try {
      for (;;) {
        const batch = this.#waiting;
        if (batch !== null) {
          this.#waiting = null;
          yield batch;
          // Taken when the reader comes back for more: until then it works on the memory.
          this.#taken?.();
        } else if (this.#ended === "end" || this.closed) return;
        else if (this.#ended !== null) throw this.#ended.error;
        else {
          await new Promise<void>((resolve) => {
            this.#arrived = resolve;
          });
          this.#arrived = null;
        }
      }
    } finally {
      this.close();
    }
  }
}
