/**
 * Weights in parts: between its turns a block keeps 1/N of its weights on each of N ranks; they are gathered before it runs
 * and dropped after it (ZeRO-3 without gradients; Wan 4.3, Model Sharding Strategy). As the process's keeper of blocks it cuts
 * each one as soon as it is loaded; a block that came otherwise is cut after its first turn.
 */
import { noGrad } from "../autograd.ts";
import type { ProcessGroup } from "../dist.ts";
import { type DType, itemSize } from "../dtype.ts";
import type { BlockKeeper, BlockPolicy } from "../nn/blocks.ts";
import { Linear } from "../nn/linear.ts";
import type { Module } from "../nn/module.ts";
import type { Parameter } from "../nn/parameter.ts";
import { cat, op, zeros } from "../ops.ts";
import { keep, scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";

/** Weights of one dtype of a block, and this rank's part of them in a row. */
interface Shard {
  readonly parameters: readonly Parameter[];
  readonly dtype: DType;
  readonly part: Tensor;
}

const view = op("aten::view", "dtype");
/** No collective knows float8: such weights are cut and gathered as the bytes that they are. */
const asBytes = (t: Tensor): Tensor => (t.dtype.startsWith("float8") ? view(t, "uint8") : t);

export class ShardedWeights implements BlockPolicy, BlockKeeper, Disposable {
  readonly #group: ProcessGroup;
  readonly #shards = new Map<Module, readonly Shard[]>();

  constructor(group: ProcessGroup) {
    this.#group = group;
  }

  /** Bytes that this rank keeps of the blocks that were cut. */
  get bytes(): number {
    return [...this.#shards.values()].flat().reduce((sum, { part }) => sum + part.numel * itemSize(part.dtype), 0);
  }

  before(block: Module): void {
    const shards = this.#shards.get(block);
    if (shards === undefined) return;
    // weights that come anew each time are not worth a second copy in another layout
    for (const [, each] of block.namedModules()) if (each instanceof Linear) each.packs = false;
    noGrad(() =>
      scope(() => {
        for (const { parameters, dtype, part } of shards) {
          const gathered = this.#group.allGather(part);
          const whole = gathered.dtype === dtype ? gathered : view(gathered, dtype);
          let at = 0;
          for (const p of parameters) {
            p.materialise(whole.narrow(0, at, p.declaredNumel).view(p.declaredShape));
            at += p.declaredNumel;
          }
        }
      }),
    );
  }

  after(block: Module): void {
    if (!this.#shards.has(block)) this.#shards.set(block, this.#cut(block));
    for (const [, p] of block.namedWeights()) p.dispose();
  }

  loaded(block: Module): void {
    this.after(block);
  }
  gone(block: Module): void {
    for (const { part } of this.#shards.get(block) ?? []) part.dispose();
    this.#shards.delete(block);
  }

  /** Forgets all blocks; their networks are disposed of by whoever has them. */
  [Symbol.dispose](): void {
    for (const { part } of [...this.#shards.values()].flat()) part.dispose();
    this.#shards.clear();
  }

  #cut(block: Module): Shard[] {
    const { rank, size } = this.#group;
    const byType = Map.groupBy(
      Array.from(block.namedWeights(), ([, p]) => p),
      (p): DType => p.dtype,
    );
    return [...byType.values()].map((parameters) =>
      noGrad(() =>
        scope(() => {
          const flat = parameters.map((p) => asBytes(p.detach().flatten()));
          const numel = parameters.reduce((sum, p) => sum + p.declaredNumel, 0);
          const each = Math.ceil(numel / size);
          const { dtype, device } = flat[0] as Tensor;
          const even = cat([...flat, zeros([each * size - numel], { dtype, device })]);
          return {
            parameters,
            dtype: (parameters[0] as Parameter).dtype,
            part: keep(even.narrow(0, rank * each, each).clone()),
          };
        }),
      ),
    );
  }
}
