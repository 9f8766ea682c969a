/** A stand-in that opens the store at first use: many jobs never touch it. */
import type { Store } from "../../plugins/index.ts";

/** A store that is loaded when first asked. Disposing it does nothing: the runner owns what is behind. */
export function lazyStore(open: () => Promise<Store>): Store {
  return {
    publish: async (...args) => (await open()).publish(...args),
    has: async (digest) => (await open()).has(digest),
    path: async (digest) => (await open()).path(digest),
    lineage: async (digest) => (await open()).lineage(digest),
    children: async (digest) => (await open()).children(digest),
    async *list(kind) {
      yield* (await open()).list(kind);
    },
    verify: async (digest) => (await open()).verify(digest),
    [Symbol.asyncDispose]: async () => undefined,
  };
}
