/**
 * Which clips make up which batch, from the seed alone.
 *
 * Clips of one shape form a bucket, since one batch is one tensor. Buckets take turns by their size, every bucket walks
 * through one shuffle of its clips after another, and image batches are spread evenly among video batches. Nothing but
 * counters moves, so the cursor of a resumed run is its step.
 */
export type Kind = "image" | "video";

export interface Item {
  readonly id: string;
  readonly kind: Kind;
  /** Items of one shape: "64x64x17". */
  readonly bucket: string;
}

export interface LoaderOptions<T extends Item> {
  readonly items: readonly T[];
  readonly batch: number;
  /** Share of batches that are images; without items of the other kind it counts for nothing. */
  readonly imageShare: number;
  readonly seed: number;
}

export class Loader<T extends Item> {
  readonly #options: LoaderOptions<T>;
  readonly #kinds: Readonly<Record<Kind, Bucket<T>[]>>;
  #step = 0;

  constructor(options: LoaderOptions<T>) {
    this.#options = options;
    const byKind = (kind: Kind): Bucket<T>[] => {
      const groups = Map.groupBy(
        options.items.filter((item) => item.kind === kind),
        (item) => item.bucket,
      );
      return [...groups]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([name, items]) => new Bucket(`${options.seed}/${name}`, items));
    };
    this.#kinds = { image: byKind("image"), video: byKind("video") };
  }

  /** Position: batches given so far. */
  get step(): number {
    return this.#step;
  }

  next(): { kind: Kind; items: T[] } {
    const kind = this.#kind(this.#step++);
    const buckets = this.#kinds[kind];
    // The bucket that is furthest behind its share; ties go to the first by name.
    const bucket = buckets.reduce((best, each) => (each.lag > best.lag ? each : best));
    return { kind, items: bucket.take(this.#options.batch) };
  }

  /** Goes to where a run was after `step` batches. */
  seek(step: number): void {
    while (this.#step < step) this.next();
  }

  #kind(step: number): Kind {
    if (this.#kinds.video.length === 0) return "image";
    if (this.#kinds.image.length === 0) return "video";
    const share = this.#options.imageShare;
    return Math.floor((step + 1) * share) > Math.floor(step * share) ? "image" : "video";
  }
}

class Bucket<T> {
  readonly #name: string;
  readonly #items: readonly T[];
  #given = 0;
  #order: T[] = [];

  constructor(name: string, items: readonly T[]) {
    this.#name = name;
    this.#items = items;
  }

  /** Minus the passes through this bucket so far. */
  get lag(): number {
    return -this.#given / this.#items.length;
  }

  take(count: number): T[] {
    return Array.from({ length: count }, () => {
      const place = this.#given % this.#items.length;
      if (place === 0) this.#order = shuffled(this.#items, `${this.#name}/${this.#given / this.#items.length}`);
      this.#given++;
      return this.#order[place] as T;
    });
  }
}

/** Fisher-Yates with a generator seeded by a name. */
export function shuffled<T>(items: readonly T[], name: string): T[] {
  const random = seeded(name);
  const order = [...items];
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j] as T, order[i] as T];
  }
  return order;
}

/** A seed for `new Generator`, different for every name: 53 bits of a hash. */
export function seedOf(name: string): number {
  const random = seeded(name);
  return Math.floor(random() * 2 ** 21) * 2 ** 32 + Math.floor(random() * 2 ** 32);
}

/** FNV-1a of the name, then mulberry32: both are fixed by these lines, so that an old run can be repeated anywhere. */
function seeded(name: string): () => number {
  let state = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) state = Math.imul(state ^ name.charCodeAt(i), 0x01000193);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
