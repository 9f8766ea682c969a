// Blocks one after the other, with no more of them in memory than one.
import { scope, tensorsIn } from "../scope.ts";
import { Tensor } from "../tensor.ts";

/**
 * x through `blocks`. What a block makes on its way is freed when it is done, and what went into it too, unless the caller
 * gave it or `keep` is set because somebody taps it. A graph holds on to what it needs by itself.
 */
export function chain<B, X>(
  blocks: readonly B[],
  x: X,
  step: (block: B, x: X, i: number) => X,
  { keep = false }: { keep?: boolean } = {},
): X {
  let at = x;
  for (const [i, block] of blocks.entries()) {
    const next = scope(() => step(block, at, i));
    if (!keep && i > 0) freeBut(at, next);
    at = next;
  }
  return at;
}

function freeBut(before: unknown, after: unknown): void {
  const staying = new Set<object>();
  tensorsIn(after, (t) => staying.add(t));
  tensorsIn(before, (t) => {
    if (t instanceof Tensor && !staying.has(t)) t.dispose();
  });
}
