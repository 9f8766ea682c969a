/** A transformer's blocks, one after another, under what a policy does around each (weights gathered, dropped, prefetched). */
import { scope, tensorsIn } from "../scope.ts";
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

let policy: BlockPolicy | null = null;
let keeper: BlockKeeper | null = null;

/** For this process from now on, for every network that is loaded in it. */
export function setBlockKeeper(chosen: BlockKeeper | null): void {
  keeper = chosen;
}
/** @internal */
export const blockKeeper = (): BlockKeeper | null => keeper;

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
  let current = carry;
  for (const [i, block] of blocks.entries()) {
    policy?.before(block, blocks[i + 1]);
    const next = scope(() => step(block, current, i));
    if (!keep && i > 0) freeBut(current, next);
    current = next;
    policy?.after(block);
  }
  return current;
}

function freeBut(before: unknown, after: unknown): void {
  const staying = new Set<object>();
  tensorsIn(after, (t) => staying.add(t));
  tensorsIn(before, (t) => {
    if (!staying.has(t)) t.dispose();
  });
}
