/**
 * A process as one of several ranks of a job. The first leads: it runs the operation as if it were alone, and where the
 * operation calls a denoiser, all ranks run it (passes.ts). The others follow: they load what the leader loads and wait
 * for its word, which comes through the store in which the ranks met. Noise, text, decoding and files are the leader's, so
 * a seed gives the same on any number of ranks.
 */
import {
  EngineError,
  Mesh,
  ProcessGroup,
  RankStore,
  SequenceParallel,
  ShardedWeights,
  setBlockKeeper,
  type Tensor,
  withBlockPolicy,
  withTokenPolicy,
} from "../../native/index.ts";
import {
  type Adapter,
  type Context,
  type Denoiser,
  type DenoiserInput,
  type ErrorBody,
  toWaverError,
  type Used,
  WaverError,
} from "../../plugins/index.ts";
import { type RankArguments, rankLost } from "./mesh.ts";
import { type Forward, type Packed, packed, runPasses } from "./passes.ts";

/** Others may still be loading libtorch from a cold disk. */
const MEET_MS = 60_000;
/** What a rank may take to say that it is still in step, when another had an error. */
const RESYNC_MS = 10_000;
/** While a job runs its next word is milliseconds away. */
const QUICK_MS = 1;
const SLOW_MS = 20;
const QUICK_FOR_MS = 2_000;

/** Where the leader's store listens. */
export interface Meeting {
  readonly port: number;
  readonly secret: string;
}

type Order =
  /** Hold a provider of `family` with these options, under this name. */
  | {
      readonly do: "load";
      readonly name: string;
      readonly id: string;
      readonly options: Readonly<Record<string, unknown>>;
    }
  /** The same of `adapt`, on the network of that name. */
  | {
      readonly do: "adapt";
      readonly name: string;
      readonly network: string;
      readonly id: string;
      readonly options: Readonly<Record<string, unknown>>;
    }
  | { readonly do: "release"; readonly name: string }
  | { readonly do: "run"; readonly name: string; readonly packed: Packed; readonly adapters: readonly Worn[] }
  /** Say that you listen. */
  | { readonly do: "answer" };

/** An adapter that is on, and how strongly. */
interface Worn {
  readonly name: string;
  readonly weight: number;
}

type Answer = { readonly ok: true } | { readonly ok: false; readonly error: ErrorBody };

export class Ranks {
  readonly args: RankArguments;
  readonly #device: string;
  readonly #store: RankStore;
  readonly #world: ProcessGroup;
  readonly #mesh: Mesh;
  readonly #sequence: SequenceParallel;
  /** Of all networks here. */
  readonly #weights: ShardedWeights | null;
  /** Of the networks that an operation holds, by what it sees of them. */
  readonly #spread = new WeakMap<Denoiser, string>();
  /** Adapters that are on right now, outermost first. */
  readonly #worn: Worn[] = [];
  #orders = 0;
  #names = 0;

  private constructor(args: RankArguments, device: string, store: RankStore) {
    const { rank, count: size } = args;
    this.args = args;
    this.#device = device;
    this.#store = store;
    this.#world = ProcessGroup.open(store, { name: "world", rank, size, device });
    this.#mesh = new Mesh(store, this.#world, args.replicas, device);
    this.#weights = args.shardWeights ? new ShardedWeights(this.#mesh.sequence) : null;
    setBlockKeeper(this.#weights);
    this.#sequence = new SequenceParallel(this.#mesh, { mode: args.attention, ulysses: args.ulysses });
  }

  /** The leader opens the store and tells where; the others are told. Returns when all have come. */
  static async meet(
    args: RankArguments,
    device: string,
    line: { tell(meeting: Meeting | null): void; told(): Promise<Meeting> },
  ): Promise<Ranks> {
    const leads = args.rank === 0;
    const secret = crypto.randomUUID();
    const store = leads ? RankStore.serve({ secret }) : await follower(line);
    if (leads) line.tell({ port: store.port, secret });
    else store.set(`here ${args.rank}`, "");
    // Opening the group blocks this thread: until then messages must be able to leave.
    const until = performance.now() + MEET_MS;
    for (let rank = 1; leads && rank < args.count; rank++)
      while (!store.has(`here ${rank}`)) {
        if (performance.now() > until) throw rankLost(`rank ${rank} of ${args.count} did not come`);
        await Bun.sleep(SLOW_MS);
      }
    if (leads) store.set("all here", "");
    while (!store.has("all here")) await Bun.sleep(SLOW_MS);
    return new Ranks(args, device, store);
  }

  /** For one job: denoisers that `spread` of a context's `use` gives run on all ranks, until `close`. */
  leading(): { spread(use: Context["use"]): Context["use"]; close(): void } {
    const open = new Set<() => void>();
    /** A provider's value `made`, which the other ranks are to have too, until whoever uses it lets go. */
    const everywhere = <I, O>(
      used: ((input: I) => Promise<O>) & Disposable,
      made: (name: string, input: I) => Promise<O>,
    ): typeof used => {
      const name = `${++this.#names}`;
      const release = (): void => {
        if (open.delete(release)) this.#tell({ do: "release", name });
      };
      const call = async (input: I): Promise<O> => {
        const value = await made(name, input);
        open.add(release);
        return value;
      };
      return Object.assign(call, {
        [Symbol.dispose]() {
          used[Symbol.dispose]();
          release();
        },
      });
    };
    const spread =
      (own: Context["use"]): Context["use"] =>
      async (hook, id, options = {}) => {
        const used = await own(hook, id, options);
        if (hook === "family") {
          const family = used as unknown as Used<"family">;
          const spread = everywhere(family, async (name, input) => {
            const network = await family(input);
            await this.#load({ do: "load", name, id, options });
            return this.#over(network, name);
          });
          return spread as unknown as typeof used;
        }
        if (hook === "adapt") {
          const adapt = used as unknown as Used<"adapt">;
          const worn = everywhere(adapt, async (name, { denoiser }) => {
            const adapter = await adapt({ denoiser });
            const network = this.#spread.get(denoiser);
            if (network === undefined) throw new WaverError("internal", "an adapter for a network that is not spread");
            await this.#load({ do: "adapt", name, network, id, options });
            return this.#noted(adapter, name);
          });
          return worn as unknown as typeof used;
        }
        return used;
      };
    return {
      spread,
      close() {
        for (const release of [...open]) release();
      },
    };
  }

  /** Does what the leader says, for ever. `open` makes a context of this process. */
  async follow(
    open: () => { ctx: Context; close(): void },
    log: (event: string, fields: Record<string, unknown>) => void,
  ): Promise<never> {
    const held = new Map<string, { network?: Denoiser; adapter?: Adapter; close(): void }>();
    const network = (name: string): Denoiser => {
      const found = held.get(name)?.network;
      if (found === undefined) throw new WaverError("internal", `this rank holds no network ${name}`);
      return found;
    };
    const load = async (order: Extract<Order, { do: "load" | "adapt" }>): Promise<void> => {
      const { ctx, close } = open();
      try {
        const value =
          order.do === "load"
            ? { network: await (await ctx.use("family", order.id, order.options))({}) }
            : {
                adapter: await (await ctx.use("adapt", order.id, order.options))({ denoiser: network(order.network) }),
              };
        held.set(order.name, { ...value, close });
      } catch (error) {
        close();
        throw error;
      }
    };
    const wearing = <T>(adapters: readonly Worn[], work: () => T): T =>
      adapters.reduceRight<() => T>((inner, { name, weight }) => {
        const { adapter } = held.get(name) as { adapter: Adapter };
        return () => adapter.during(weight, inner);
      }, work)();
    let late: ReturnType<typeof setTimeout> | undefined;
    for (;;) {
      const { order, number } = await this.#next();
      clearTimeout(late);
      if (order.do === "load" || order.do === "adapt") await this.#answer(number, () => load(order));
      else if (order.do === "answer") await this.#answer(number, async () => undefined);
      else if (order.do === "release") {
        held.get(order.name)?.close();
        held.delete(order.name);
      } else
        try {
          const runs = network(order.name);
          wearing(order.adapters, () => runPasses(this.#together, runs, order.packed, null, this.#device));
        } catch (error) {
          const { code, message } = toWaverError(error);
          log("pass_failed", { rank: this.args.rank, code, reason: message });
          if (code === "rank_lost") process.exit(70);
          // A mistake in the request fails on every rank, and the leader says so. If it does not speak again, it waits for this one.
          late = setTimeout(() => process.exit(70), RESYNC_MS);
        }
    }
  }

  get #together(): { world: ProcessGroup; mesh: Mesh; forward: Forward } {
    return { world: this.#world, mesh: this.#mesh, forward: (network, input) => this.#forward(network, input) };
  }

  #forward(network: Denoiser, input: DenoiserInput): Tensor {
    return withBlockPolicy(this.#weights, () =>
      withTokenPolicy(this.#mesh.sequence.size === 1 ? null : this.#sequence, () => network.forward(input)),
    );
  }

  /** The network as an operation sees it. */
  #over(network: Denoiser, name: string): SpreadDenoiser {
    const together = (passes: readonly DenoiserInput[]): Tensor[] => {
      const { packed: order, tensors } = packed(passes);
      this.#tell({ do: "run", name, packed: order, adapters: this.#worn });
      try {
        return runPasses(this.#together, network, order, tensors, this.#device);
      } catch (error) {
        if (error instanceof EngineError && error.code === "rank_lost") throw error;
        this.#resync(error);
        throw error;
      }
    };
    const own: Pick<SpreadDenoiser, "numReplicas" | "together" | "forward"> = {
      numReplicas: this.#mesh.numReplicas,
      together,
      forward(input, taps) {
        if (taps !== undefined)
          throw new WaverError("needs_unmet", "what blocks give inside is in parts on several ranks", {
            hint: "use one rank",
          });
        return together([input])[0] as Tensor;
      },
    };
    // all else is the network's own, private fields included
    const spread = new Proxy(network, {
      has: (target, key) => key in own || key in target,
      get(target, key) {
        if (key in own) return own[key as keyof typeof own];
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    }) as SpreadDenoiser;
    this.#spread.set(spread, name);
    return spread;
  }

  /** The adapter, and what the other ranks are told while it is on. */
  #noted(adapter: Adapter, name: string): Adapter {
    const worn = this.#worn;
    return {
      layers: adapter.layers,
      fused: (...how) => adapter.fused(...how),
      during(weight, work) {
        worn.push({ name, weight });
        try {
          return adapter.during(weight, work);
        } finally {
          worn.pop();
        }
      },
    };
  }

  async #load(order: Extract<Order, { do: "load" | "adapt" }>): Promise<void> {
    const number = this.#tell(order);
    for (let rank = 1; rank < this.args.count; rank++) {
      while (!this.#store.has(`done ${number} ${rank}`)) await Bun.sleep(SLOW_MS);
      const answer = JSON.parse(this.#store.get(`done ${number} ${rank}`)) as Answer;
      if (!answer.ok) throw WaverError.fromBody(answer.error);
    }
  }

  /** After an error here: the others had it as well and listen again, or wait inside a collective for ever. */
  #resync(cause: unknown): void {
    const number = this.#tell({ do: "answer" });
    try {
      for (let rank = 1; rank < this.args.count; rank++) this.#store.get(`done ${number} ${rank}`, RESYNC_MS);
    } catch {
      throw rankLost(`the ranks are out of step: ${toWaverError(cause).message}`, cause);
    }
  }

  #tell(order: Order): number {
    const number = this.#orders++;
    this.#store.set(`order ${number}`, JSON.stringify(order));
    // Nobody is further behind than the last pass, which took all of them.
    if (number >= 64) this.#store.delete(`order ${number - 64}`);
    return number;
  }

  async #next(): Promise<{ order: Order; number: number }> {
    const number = this.#orders++;
    const key = `order ${number}`;
    const since = performance.now();
    while (!this.#store.has(key)) await Bun.sleep(performance.now() - since < QUICK_FOR_MS ? QUICK_MS : SLOW_MS);
    return { order: JSON.parse(this.#store.get(key)) as Order, number };
  }

  async #answer(number: number, work: () => Promise<void>): Promise<void> {
    let answer: Answer = { ok: true };
    try {
      await work();
    } catch (error) {
      answer = { ok: false, error: toWaverError(error).toBody() };
    }
    this.#store.set(`done ${number} ${this.args.rank}`, JSON.stringify(answer));
  }
}

/** A denoiser that runs on several ranks. */
export interface SpreadDenoiser extends Denoiser {
  readonly numReplicas: number;
  /** Several passes at once, as many side by side as there are replicas. */
  together(passes: readonly DenoiserInput[]): Tensor[];
}
export const isSpread = (network: Denoiser): network is SpreadDenoiser => "together" in network;

async function follower(line: { tell(meeting: null): void; told(): Promise<Meeting> }): Promise<RankStore> {
  const told = line.told();
  line.tell(null);
  const { port, secret } = await told;
  return RankStore.connect(port, { secret });
}
