/**
 * A transformer's blocks, one after another, under what a policy does around each (weights gathered, dropped, prefetched),
 * and with a shortcut around some of them where one is set.
 */
import { EngineError } from "../errors.ts";
import { scope, tensorsIn } from "../scope.ts";
import { Tensor } from "../tensor.ts";
import type { Module } from "./module.ts";

export interface BlockPolicy {
  /** The block is about to run; `next` is the one after it. */
  before(block: Module, next: Module | undefined): void;
  after(block: Module): void;
}

/** What becomes of a block's weights between its turns. */
export interface BlockKeeper {
  /** Its weights have just been loaded, those of the next block not yet. */
  loaded(block: Module): void;
  /** Its network is disposed of. */
  gone(block: Module): void;
}

/** The blocks that one call of `throughBlocks` was given. */
export interface BlockStretch {
  readonly length: number;
  /** Runs the blocks from `from` up to, not including, `to`. What goes in stays the caller's. */
  run(carry: readonly Tensor[], from: number, to: number): Tensor[];
}

/** Decides in the place of `throughBlocks` which of its blocks run. */
export interface Shortcut {
  /** carry -> what the last block would give. The first tensor is what the network predicts from, axis 0 of each the sample. */
  through(stretch: BlockStretch, carry: readonly Tensor[]): Tensor[];
}

let policy: BlockPolicy | null = null;
let shortcut: Shortcut | null = null;
const policies = new WeakMap<Module, BlockPolicy>();
let keeper: BlockKeeper | null = null;

/** For this process from now on, for every network that is loaded in it. */
export function setBlockKeeper(chosen: BlockKeeper | null): void {
  keeper = chosen;
}
/** @internal */
export const blockKeeper = (): BlockKeeper | null => keeper;

/** A policy around these blocks wherever they run. */
export function setBlockPolicy(blocks: readonly Module[], chosen: BlockPolicy): void {
  for (const block of blocks) policies.set(block, chosen);
}

/** Runs `fn` (synchronous) with a policy around every block that has none of its own. */
export function withBlockPolicy<T>(chosen: BlockPolicy | null, fn: () => T): T {
  const before = policy;
  policy = chosen;
  try {
    return scope(fn);
  } finally {
    policy = before;
  }
}

/** Runs `fn` (synchronous) with a shortcut around blocks. No scope: a pass may leave more behind than it returns. */
export function withShortcut<T>(chosen: Shortcut | null, fn: () => T): T {
  const before = shortcut;
  shortcut = chosen;
  try {
    return fn();
  } finally {
    shortcut = before;
  }
}

/**
 * carry -> step(block, carry, i) for every block in turn. What a block makes on its way is freed when it is done, and what
 * went into it too, unless the caller gave it or `keep` is set because somebody taps it. A graph holds on to what it needs
 * by itself.
 */
export function throughBlocks<B extends Module, C>(
  blocks: readonly B[],
  carry: C,
  step: (block: B, carry: C, index: number) => C,
  { keep = false }: { readonly keep?: boolean } = {},
): C {
  const run = (given: C, from: number, to: number): C => {
    let current = given;
    for (let i = from; i < to; i++) {
      const block = blocks[i] as B;
      const around = policies.get(block) ?? policy;
      around?.before(block, i + 1 < to ? blocks[i + 1] : undefined);
      const next = scope(() => step(block, current, i));
      if (!keep && i > from) freeBut(current, next);
      current = next;
      around?.after(block);
    }
    return current;
  };
  if (shortcut === null) return run(carry, 0, blocks.length);
  const around = shortcut;
  const stretch: BlockStretch = {
    length: blocks.length,
    run: (tensors, from, to) => flat(run(shapedAs(carry, tensors), from, to)),
  };
  // what blocks are made of is none of its business
  return withShortcut(null, () => shapedAs(carry, around.through(stretch, flat(carry))));
}

function flat(carry: unknown): Tensor[] {
  if (carry instanceof Tensor) return [carry];
  return typeof carry === "object" && carry !== null ? Object.values(carry).flatMap(flat) : [];
}

/** `tensors` in the places that those of `flat(carry)` have there. */
function shapedAs<C>(carry: C, tensors: readonly Tensor[]): C {
  if (flat(carry).length !== tensors.length)
    throw new EngineError("op_arguments", "under a shortcut, blocks must pass on as many tensors as they were given");
  let at = 0;
  const place = (value: unknown): unknown => {
    if (value instanceof Tensor) return tensors[at++];
    if (Array.isArray(value)) return value.map(place);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, place(each)]));
  };
  return place(carry) as C;
}

function freeBut(before: unknown, after: unknown): void {
  const staying = new Set<object>();
  tensorsIn(after, (t) => staying.add(t));
  tensorsIn(before, (t) => {
    if (!staying.has(t)) t.dispose();
  });
}
