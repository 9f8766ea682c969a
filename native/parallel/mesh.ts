/**
 * How ranks share work: replicas, each of which runs whole passes (DP = ranks / CP), and in a replica the ranks that share
 * one sequence (CP), Ring outside and Ulysses inside (Wan 4.3, Context Parallel Strategy).
 *
 * rank = (replica * ring + r) * ulysses + u
 */
import { ProcessGroup, type RankStore } from "../dist.ts";
import { EngineError } from "../errors.ts";
import type { Device } from "../tensor.ts";

/** Ranks of one sequence. ring * ulysses. */
export interface Degrees {
  readonly ring: number;
  readonly ulysses: number;
}

export class Mesh implements Disposable {
  readonly world: ProcessGroup;
  readonly numReplicas: number;
  /** This rank's replica. */
  readonly replica: number;
  /** The ranks of this replica. */
  readonly sequence: ProcessGroup;
  readonly #store: RankStore;
  readonly #device: Device;
  readonly #groups = new Map<string, ProcessGroup>();

  /** Every rank makes the same mesh. The world stays the caller's. */
  constructor(store: RankStore, world: ProcessGroup, numReplicas = 1, device: Device = "cpu") {
    if (world.size % numReplicas !== 0)
      throw new EngineError("op_arguments", `${world.size} ranks do not divide into ${numReplicas} replicas`);
    const size = world.size / numReplicas;
    this.#store = store;
    this.#device = device;
    this.world = world;
    this.numReplicas = numReplicas;
    this.replica = Math.floor(world.rank / size);
    this.sequence = numReplicas === 1 ? world : this.#group("sequence", this.replica, world.rank % size, size);
  }

  /** The ranks between which heads are exchanged. */
  ulysses({ ring, ulysses }: Degrees): ProcessGroup {
    if (ring === 1) return this.sequence;
    const { rank } = this.sequence;
    return this.#group(`ulysses ${ulysses}`, Math.floor(rank / ulysses), rank % ulysses, ulysses);
  }
  /** The ranks round which keys and values go. */
  ring({ ring, ulysses }: Degrees): ProcessGroup {
    if (ulysses === 1) return this.sequence;
    const { rank } = this.sequence;
    return this.#group(`ring ${ring}`, rank % ulysses, Math.floor(rank / ulysses), ring);
  }

  /** Made when first needed; all its ranks come here at the same point of the same forward. */
  #group(kind: string, index: number, rank: number, size: number): ProcessGroup {
    const name = `${this.world.name}/replica ${this.replica}/${kind}/${index}`;
    const known = this.#groups.get(name);
    if (known !== undefined) return known;
    const made = ProcessGroup.open(this.#store, { name, rank, size, device: this.#device });
    this.#groups.set(name, made);
    return made;
  }

  [Symbol.dispose](): void {
    for (const group of this.#groups.values()) group[Symbol.dispose]();
    this.#groups.clear();
  }
}

export type SequenceMode = "auto" | "ulysses" | "ring";

/**
 * Ulysses deals out heads, so its degree must divide them; Ring takes any number. `auto` gives Ulysses the most it can have
 * (it sends less) and Ring the rest.
 */
export function degreesFor(ranks: number, heads: number, mode: SequenceMode, ulysses?: number): Degrees {
  const wanted = mode === "ring" ? 1 : (ulysses ?? (mode === "ulysses" ? ranks : undefined));
  if (wanted === undefined) {
    const most =
      Array.from({ length: ranks }, (_, i) => ranks - i).find((n) => ranks % n === 0 && heads % n === 0) ?? 1;
    return { ring: ranks / most, ulysses: most };
  }
  const hint =
    "leave parallel.ulysses out and let parallel.attention be auto: Ring takes what heads do not divide into";
  if (ranks % wanted !== 0)
    throw new EngineError("ranks_unfit", `${ranks} ranks of a sequence do not divide into groups of ${wanted}`, hint);
  if (heads % wanted !== 0)
    throw new EngineError("ranks_unfit", `${heads} heads do not divide by parallel.ulysses ${wanted}`, hint);
  return { ring: ranks / wanted, ulysses: wanted };
}
