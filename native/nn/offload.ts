/**
 * Weights of blocks that are on the device only around their turns, so that a network may be larger than its memory. On a CPU
 * they stay in the mapped checkpoint, read ahead while the block before computes. For an accelerator they are pinned in the
 * host's memory and copied on a stream beside, into two places on the device that blocks take in turn. What is in no block stays.
 */
import { noGrad } from "../autograd.ts";
import type { DType } from "../dtype.ts";
import { EngineError } from "../errors.ts";
import { empty, op } from "../ops.ts";
import { keep, scope } from "../scope.ts";
import { Mark, Stream } from "../stream.ts";
import type { Device, Tensor } from "../tensor.ts";
import type { BlockPolicy } from "./blocks.ts";
import type { Module, WeightSource } from "./module.ts";
import type { Parameter } from "./parameter.ts";

/** A block's weight, and where it is read. */
export interface StoredWeight {
  readonly parameter: Parameter;
  readonly key: string;
  readonly dtype: DType;
}

/** Keeps the weights of a network's blocks; `source` stays open as long. */
export abstract class Offload implements BlockPolicy, Disposable {
  protected readonly source: WeightSource;
  protected readonly device: Device;
  readonly #blocks: readonly Module[];
  readonly #stored = new Map<Module, StoredWeight[]>();

  constructor(blocks: readonly Module[], source: WeightSource, device: Device) {
    this.#blocks = blocks;
    this.source = source;
    this.device = device;
  }

  static of(blocks: readonly Module[], source: WeightSource, device: Device): Offload {
    return device === "cpu" ? new MappedBlocks(blocks, source, device) : new PinnedBlocks(blocks, source, device);
  }

  /** To be called for every weight of every block, block by block. */
  place(block: Module, weight: StoredWeight): void {
    weight.parameter.comesAndGoes({ dtype: weight.dtype, device: this.device });
    const stored = this.#stored.get(block) ?? [];
    stored.push(weight);
    this.#stored.set(block, stored);
  }
  /** All weights of the block have been placed. */
  placed(_block: Module): void {
    // a file holds them as they are
  }

  before(block: Module): void {
    // after an error some other block may still be here
    for (const each of this.#blocks) if (each !== block && this.isHere(each)) this.after(each);
    const next = this.#blocks[(this.#blocks.indexOf(block) + 1) % this.#blocks.length] as Module;
    noGrad(() => scope(() => this.bring(block, next === block ? null : next)));
  }
  after(block: Module): void {
    for (const { parameter } of this.weightsOf(block)) parameter.dispose();
    this.gone(block);
  }

  protected weightsOf(block: Module): readonly StoredWeight[] {
    return this.#stored.get(block) ?? [];
  }
  protected isHere(block: Module): boolean {
    return this.weightsOf(block).some(({ parameter }) => parameter.materialised);
  }
  protected read({ key, dtype }: StoredWeight): Tensor {
    return this.source.get(key).detach().to({ dtype });
  }
  /** Makes the weights of `block` be here, and lets those of `next` come meanwhile. */
  protected abstract bring(block: Module, next: Module | null): void;
  /** The weights of `block` have left. */
  protected abstract gone(block: Module): void;

  [Symbol.dispose](): void {
    for (const block of this.#blocks) if (this.isHere(block)) this.after(block);
  }
}

/** In the file: what a block reads is mapped or converted for its turn. */
class MappedBlocks extends Offload {
  protected bring(block: Module, next: Module | null): void {
    if (next !== null) for (const { key } of this.weightsOf(next)) this.source.prefetch?.(key);
    for (const weight of this.weightsOf(block)) weight.parameter.materialise(this.read(weight));
  }
  protected gone(block: Module): void {
    for (const { key } of this.weightsOf(block)) this.source.release?.(key);
  }
}

/** Where every tensor in a block's row of bytes begins: no kernel asks for more. */
const ALIGNED = 256;
const roomFor = (bytes: number): number => Math.ceil(bytes / ALIGNED) * ALIGNED;

const pinned = op("aten::pin_memory");
const copyAsync = op("aten::copy_");
const seenAs = op("aten::view", "dtype");

/** A place for one block on the device. */
interface Slot {
  readonly bytes: Tensor;
  holds: Module | null;
  /** Its copy has come. */
  come: Mark | null;
  /** Nobody reads it any more. */
  free: Mark;
}

/**
 * In pinned memory, a row of bytes a block. The stream beside waits until a place is free before it copies into it, and the
 * device's own stream until the copy has come: nothing here waits for either.
 */
export class PinnedBlocks extends Offload {
  readonly #rows = new Map<Module, Tensor>();
  readonly #slots: Slot[] = [];
  readonly #beside: Stream;

  constructor(blocks: readonly Module[], source: WeightSource, device: Device) {
    super(blocks, source, device);
    this.#beside = Stream.open(device);
  }

  override placed(block: Module): void {
    const weights = this.weightsOf(block);
    noGrad(() =>
      scope(() => {
        const bytes = weights.reduce((sum, { parameter, dtype }) => sum + roomFor(parameter.bytesAs(dtype)), 0);
        const plain = empty([bytes], { dtype: "uint8" });
        // there is nothing to pin for on a CPU, where tests run this
        const row = this.device === "cpu" ? plain : pinned(plain);
        each(row, weights, (weight, part) => void part.copy_(this.read(weight)));
        for (const { key } of weights) this.source.release?.(key);
        this.#rows.set(block, keep(row));
      }),
    );
  }

  protected bring(block: Module, next: Module | null): void {
    const slot = this.#slots.find(({ holds }) => holds === block) ?? this.#fetch(block, null);
    slot.come?.wait();
    each(slot.bytes, this.weightsOf(block), ({ parameter }, part) => parameter.materialise(part));
    if (next !== null && !this.#slots.some(({ holds }) => holds === next)) this.#fetch(next, slot);
  }

  protected gone(block: Module): void {
    const slot = this.#slots.find(({ holds }) => holds === block);
    if (slot === undefined) return;
    slot.free[Symbol.dispose]();
    slot.free = Mark.set(this.device);
  }

  /** Starts the copy of a block into whichever place `taken` is not. */
  #fetch(block: Module, taken: Slot | null): Slot {
    if (this.#slots.length === 0) this.#open();
    const slot = this.#slots.find((each) => each !== taken) as Slot;
    const row = this.#rows.get(block) as Tensor;
    slot.holds = block;
    slot.come?.[Symbol.dispose]();
    this.#beside.run(() => {
      slot.free.wait();
      copyAsync(slot.bytes.narrow(0, 0, row.numel), row, true);
      slot.come = Mark.set(this.device);
    });
    return slot;
  }

  #open(): void {
    const bytes = Math.max(...[...this.#rows.values()].map((row) => row.numel));
    for (let i = 0; i < Math.min(2, this.#rows.size); i++) {
      const place = keep(empty([bytes], { dtype: "uint8", device: this.device }));
      this.#slots.push({ bytes: place, holds: null, come: null, free: Mark.set(this.device) });
    }
  }

  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    for (const slot of this.#slots.splice(0)) {
      slot.come?.wait(); // a copy may be under way into what is freed here
      slot.come?.[Symbol.dispose]();
      slot.free[Symbol.dispose]();
      slot.bytes.dispose();
    }
    for (const row of this.#rows.values()) row.dispose();
    this.#rows.clear();
    this.#beside[Symbol.dispose]();
  }
}

/** Every weight's part of a row of bytes, in its dtype and shape. */
function each(row: Tensor, weights: readonly StoredWeight[], use: (weight: StoredWeight, part: Tensor) => void): void {
  let at = 0;
  for (const weight of weights) {
    const { parameter, dtype } = weight;
    const bytes = parameter.bytesAs(dtype);
    use(weight, seenAs(row.narrow(0, at, bytes), dtype).view(parameter.declaredShape));
    at += roomFor(bytes);
  }
}

/**
 * Bytes on the device of a network whose blocks come and go: two blocks, and what is in none. `bytesOf` says what a weight
 * takes, by its name in the network; as it was loaded when absent.
 */
export function offloadedBytes(
  module: Module,
  bytesOf: (weight: Parameter, name: string) => number = (weight) => weight.bytesAs(weight.dtype),
): number {
  const blockOf = new Map(
    module.offloadable().flatMap((block) => Array.from(block.namedWeights(), ([, p]) => [p, block] as const)),
  );
  const blocks = new Map<Module, number>();
  let staying = 0;
  for (const [name, weight] of module.namedWeights()) {
    const block = blockOf.get(weight);
    const bytes = bytesOf(weight, name);
    if (block === undefined) staying += bytes;
    else blocks.set(block, bytes + (blocks.get(block) ?? 0));
  }
  const [first = 0, second = 0] = [...blocks.values()].sort((a, b) => b - a);
  return staying + first + second;
}

/** Refuses to keep blocks in two ways at once, and networks without any. */
export function checkOffload(module: Module, isKept: boolean): void {
  if (module.offloadable().length === 0)
    throw new EngineError("op_arguments", "this network is not made of blocks whose weights could come and go");
  if (isKept)
    throw new EngineError(
      "op_arguments",
      "weights in parts on several ranks and weights that come and go exclude each other",
    );
}
