/** A transformer's blocks, one after another, under what a policy does around each (weights gathered, dropped, prefetched). */
import { scope } from "../scope.ts";
import type { Module } from "./module.ts";

export interface BlockPolicy {
  /** The block is about to run; `next` is the one after it. */
  before(block: Module, next: Module | undefined): void;
  after(block: Module): void;
}

let policy: BlockPolicy | null = null;

/** Runs `fn` (synchronous) with a policy around every block. */
export function withBlockPolicy<T>(chosen: BlockPolicy | null, fn: () => T): T {
  const before = policy;
  policy = chosen;
  try {
    return scope(fn);
  } finally {
    policy = before;
  }
}

/** carry -> step(block, carry, i) for every block in turn. */
export function throughBlocks<B extends Module, C>(
  blocks: readonly B[],
  carry: C,
  step: (block: B, carry: C, index: number) => C,
): C {
  let current = carry;
  for (const [i, block] of blocks.entries()) {
    policy?.before(block, blocks[i + 1]);
    current = step(block, current, i);
    policy?.after(block);
  }
  return current;
}
