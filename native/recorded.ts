/**
 * A function of tensors on an accelerator, recorded once and replayed: one call in place of one for each operator. Between
 * calls, what it stands on (weights, and what is kept of them and of a text) is held; where that was replaced or changed, it
 * is recorded anew. A CPU has nothing to record: there every call is the function's, on the same places.
 */
import { addon } from "./addon.ts";
import { noGrad } from "./autograd.ts";
import { type Arg, withInterceptor } from "./call.ts";
import { TensorCore } from "./core.ts";
import { EngineError } from "./errors.ts";
import { keep, scope, tensorsIn } from "./scope.ts";
import { Mark, Stream } from "./stream.ts";
import type { Device, Tensor } from "./tensor.ts";

/** Calls before the recording: libraries choose and load their kernels in the first, and what is kept is made then. */
const WARM_UP = 2;

/** What a recording reads beside its inputs. */
interface Foundation {
  readonly tensor: TensorCore;
  readonly stamp: readonly [number, number];
  /** The memory, however long `tensor` itself lives. */
  readonly alias: Tensor;
}

export class Recorded implements Disposable {
  readonly #device: Device;
  readonly #fn: (inputs: readonly Tensor[]) => Tensor;
  /** Where inputs are read; of every later call they have these shapes and dtypes. */
  readonly #places: readonly Tensor[];
  readonly #standsOn: () => Iterable<TensorCore>;
  #foundations: readonly Foundation[] = [];
  #recording: number | null = null;
  #output: Tensor | null = null;
  #times = 0;

  /**
   * `fn` must take all that changes through its inputs, move nothing between device and host, and draw no random numbers.
   * `standsOn` names what the results also follow from but a call may not read, such as weights of which something is kept.
   */
  constructor(
    device: Device,
    inputs: readonly Tensor[],
    fn: (inputs: readonly Tensor[]) => Tensor,
    standsOn: () => Iterable<TensorCore> = () => [],
  ) {
    this.#device = device;
    this.#fn = fn;
    this.#standsOn = standsOn;
    this.#places = noGrad(() => inputs.map((input) => keep(input.clone())));
  }

  /** How often it had to be recorded. */
  get times(): number {
    return this.#times;
  }

  /** What `fn` gives for these inputs; the caller's (or its scope's). */
  run(inputs: readonly Tensor[]): Tensor {
    return noGrad(() => {
      this.#place(inputs);
      if (this.#times === 0 || !this.#stands()) this.#record();
      if (this.#recording === null) return this.#call();
      addon().replay(this.#recording);
      return (this.#output as Tensor).clone(); // the next replay overwrites it
    });
  }

  [Symbol.dispose](): void {
    this.#forget();
    for (const place of this.#places) place.dispose();
  }

  #call(): Tensor {
    return scope(() => this.#fn(this.#places));
  }

  #place(inputs: readonly Tensor[]): void {
    for (const [i, place] of this.#places.entries()) {
      const input = inputs[i];
      if (input === undefined || input.dtype !== place.dtype || input.shape.join() !== place.shape.join())
        throw new EngineError("tensor_shape", `input ${i} was recorded as ${place}, given ${input}`);
      place.copy_(input);
    }
  }

  /** Whether all that it reads is as it was. What was let go of meanwhile is held here, unchanged. */
  #stands(): boolean {
    return this.#foundations.every(
      ({ tensor, stamp: [handle, version] }) =>
        tensor.disposed || (tensor.stamp[0] === handle && tensor.stamp[1] === version),
    );
  }

  #record(): void {
    this.#forget();
    this.#times++;
    if (!addon().canRecord(this.#device)) {
      this.#foundations = this.#learn(() => this.#call().dispose());
      return;
    }
    using stream = Stream.open(this.#device);
    using placed = Mark.set(this.#device);
    using done = stream.run(() => {
      placed.wait();
      for (let i = 0; i < WARM_UP; i++) this.#call().dispose();
      this.#foundations = this.#learn(() => {
        const recording = addon().beginRecording(this.#device);
        this.#recording = recording;
        const failed = errorOf(() => {
          this.#output = keep(this.#call());
        });
        const unfinished = errorOf(() => addon().endRecording(recording)); // also after a failure, which leaves the stream recording
        const error = failed ?? unfinished;
        if (error !== undefined)
          throw new EngineError(
            "op_failed",
            `this work cannot be recorded: ${error.message}`,
            "run it without a graph",
          );
      });
      return Mark.set(this.#device);
    });
    done.wait();
  }

  /** What `work` reads and has not made itself. */
  #learn(work: () => void): Foundation[] {
    const known = new Set<TensorCore>(this.#places);
    const found: Foundation[] = [];
    const read = (tensor: TensorCore): void => {
      if (known.has(tensor)) return;
      known.add(tensor);
      const { stamp } = tensor;
      const alias = keep((tensor as Tensor).detach());
      found.push({ tensor, stamp, alias });
      if (stamp[0] < 0)
        throw new EngineError("op_arguments", "weights that come and go by block cannot be part of a recording");
    };
    try {
      withInterceptor(
        {
          before: (_, args) => eachTensor(args, read),
          after: (_, __, made) => tensorsIn(made, (t) => known.add(t)),
        },
        work,
      );
      for (const tensor of this.#standsOn()) read(tensor);
    } catch (error) {
      for (const { alias } of found) alias.dispose();
      this.#forget();
      throw error;
    }
    return found;
  }

  #forget(): void {
    if (this.#recording !== null) addon().closeRecording(this.#recording);
    this.#recording = null;
    this.#output?.dispose();
    this.#output = null;
    for (const { alias } of this.#foundations) alias.dispose();
    this.#foundations = [];
  }
}

function errorOf(work: () => void): Error | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

function eachTensor(args: readonly Arg[], visit: (t: TensorCore) => void): void {
  for (const arg of args)
    if (arg instanceof TensorCore) visit(arg);
    else if (Array.isArray(arg)) eachTensor(arg as readonly Arg[], visit);
}
