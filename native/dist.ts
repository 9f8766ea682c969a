/**
 * Ranks: processes that work on one thing together, over c10d (Gloo on CPUs, NCCL on GPUs where it was compiled in).
 *
 * Every rank of a group calls the same collectives in the same order. What goes wrong in one of them is `rank_lost`: another
 * rank died, or did not answer in time. A group in which that happened is of no more use to anyone.
 */
import { addon } from "./addon.ts";
import { one } from "./call.ts";
import { EngineError } from "./errors.ts";
import { schema } from "./schema.ts";
import type { Device, Tensor } from "./tensor.ts";

const LOOPBACK = "127.0.0.1";
/** How long a rank waits for others that are loading, or still inside a long operator. */
const TIMEOUT_MS = 600_000;

const ALL_REDUCE = schema("waver::all_reduce");
const ALL_GATHER = schema("waver::all_gather");
const REDUCE_SCATTER = schema("waver::reduce_scatter");
const ALL_TO_ALL = schema("waver::all_to_all");

export interface StoreOptions {
  /** IPv4 address of one interface; loopback when absent. The store trusts whoever knows the secret. */
  readonly host?: string;
  /** Prefix of every key: c10d knows no other password. */
  readonly secret: string;
  readonly timeoutMs?: number;
}

/** Where ranks find each other: a small key-value server in one of them, clients in all. */
export class RankStore implements Disposable {
  readonly host: string;
  readonly port: number;
  readonly #id: number;
  readonly #timeoutMs: number;

  private constructor(port: number, isServer: boolean, options: StoreOptions) {
    this.host = options.host ?? LOOPBACK;
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    const opened = addon().openStore(this.host, port, isServer, options.secret, this.#timeoutMs);
    this.#id = opened.id;
    this.port = opened.port;
  }

  /** Opens the server, on a free port unless one is given. */
  static serve(options: StoreOptions & { readonly port?: number }): RankStore {
    return new RankStore(options.port ?? 0, true, options);
  }
  static connect(port: number, options: StoreOptions): RankStore {
    return new RankStore(port, false, options);
  }

  set(key: string, value: string): void {
    addon().storeSet(this.#id, key, value);
  }
  /** Waits for the key, blocking this thread. */
  get(key: string, timeoutMs = this.#timeoutMs): string {
    return addon().storeGet(this.#id, key, timeoutMs);
  }
  has(key: string): boolean {
    return addon().storeHas(this.#id, key);
  }
  delete(key: string): boolean {
    return addon().storeDelete(this.#id, key);
  }
  /** @internal */
  get id(): number {
    return this.#id;
  }
  [Symbol.dispose](): void {
    addon().closeStore(this.#id);
  }
}

/** A collective that has been started. */
export class Pending {
  readonly #work: number;
  /** @internal */
  constructor(work: number) {
    this.#work = work;
  }
  get isDone(): boolean {
    return addon().workIsDone(this.#work);
  }
  /** Blocks until this rank's part is done; once. */
  wait(): void {
    addon().waitWork(this.#work);
  }
}

export interface GroupOptions {
  /** Unlike that of any other group of this store. */
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly device?: Device;
  readonly timeoutMs?: number;
}
export type RankReduction = "sum" | "max" | "min";

export class ProcessGroup implements Disposable {
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly #id: number;

  private constructor(id: number, { name, rank, size }: GroupOptions) {
    this.#id = id;
    this.name = name;
    this.rank = rank;
    this.size = size;
  }

  /** Blocks until all `size` ranks have called it. */
  static open(store: RankStore, options: GroupOptions): ProcessGroup {
    const { name, rank, size, device = "cpu", timeoutMs = TIMEOUT_MS } = options;
    if (!(Number.isInteger(rank) && Number.isInteger(size) && rank >= 0 && rank < size))
      throw new EngineError("op_arguments", `rank ${rank} of ${size}: ranks count from 0`);
    return new ProcessGroup(addon().openGroup(store.id, name, rank, size, device, store.host, timeoutMs), options);
  }

  /** x of every rank, reduced: the same on all. */
  allReduce(x: Tensor, by: RankReduction = "sum"): Tensor {
    return one(ALL_REDUCE, x, by, this.#id);
  }
  /** x [n ...] of every rank, one after another: [size * n ...]. All ranks bring the same shape. Differentiable. */
  allGather(x: Tensor): Tensor {
    return one(ALL_GATHER, x, this.#id);
  }
  /** x [size * n ...] summed over ranks; each keeps its own part, [n ...]. Differentiable. */
  reduceScatter(x: Tensor): Tensor {
    return one(REDUCE_SCATTER, x, this.#id);
  }
  /** Sends rows of x to every rank in turn, `sends[r]` of them to rank r, and puts what comes (`receives[r]`) in a row. Differentiable. */
  allToAll(x: Tensor, sends: readonly number[], receives: readonly number[]): Tensor {
    return one(ALL_TO_ALL, x, receives, sends, this.#id);
  }

  /** Overwrites x with that of `root`. */
  broadcast(x: Tensor, root: number): void {
    new Pending(addon().broadcast(this.#id, x.live(), root)).wait();
  }

  /** Starts sending x (contiguous), which must stay as it is until the end. */
  send(x: Tensor, to: number, tag = 0): Pending {
    return new Pending(addon().send(this.#id, x.live(), to, tag));
  }
  /** Starts filling x (contiguous) with what `from` sends. */
  receive(x: Tensor, from: number, tag = 0): Pending {
    return new Pending(addon().receive(this.#id, x.live(), from, tag));
  }
  /** Returns when every rank has come here. */
  barrier(): void {
    new Pending(addon().barrier(this.#id)).wait();
  }

  [Symbol.dispose](): void {
    addon().closeGroup(this.#id);
  }
}
