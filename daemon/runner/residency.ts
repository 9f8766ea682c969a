/** What is loaded: one state for each hook, id, options and state of the files that these name; kept while idle, evicted by time and by bytes. */
import { type State, WaverError } from "../../plugins/index.ts";
import { admit, type Claim } from "./plan.ts";
import { Pulse } from "./pulse.ts";

/** Silence of a `dispose` after which the process ends: memory that is never given back is lost to all others. */
const DISPOSE_SECONDS = 60;

export interface LoadRequest {
  readonly hook: string;
  readonly id: string;
  /** Hook, id and options: where it is loaded from. */
  readonly origin: string;
  /** Equal keys share one state: the origin, and what its files are at the time. */
  readonly key: string;
  /** It is shapes alone: kept like any other, but nothing that anyone would call resident. */
  readonly isShape?: boolean;
  bytes(): number | Promise<number>;
  load(signal: AbortSignal): Promise<State>;
  /** Called after the state was disposed: what the load itself had in use. */
  unloaded(): void;
}

/** A claim on a loaded state. Releasing it makes the state idle; it is not disposed. */
export interface Held {
  readonly state: State;
  release(): void;
}

export interface ResidencyOptions {
  readonly budget: number;
  readonly keepAliveMs: number;
  readonly onChange?: () => void;
}

interface Entry {
  readonly request: LoadRequest;
  readonly abort: AbortController;
  readonly state: Promise<State>;
  bytes: number;
  users: number;
  loaded: boolean;
  idleSince: number;
  timer: Timer | null;
}

export class Residency implements AsyncDisposable {
  readonly #entries = new Map<string, Entry>();
  readonly #leaving = new Set<Promise<void>>();
  readonly #options: ResidencyOptions;

  constructor(options: ResidencyOptions) {
    this.#options = options;
  }

  async acquire(request: LoadRequest, signal: AbortSignal): Promise<Held> {
    signal.throwIfAborted();
    let entry = this.#entries.get(request.key);
    if (entry === undefined) {
      const bytes = await request.bytes();
      signal.throwIfAborted();
      // Another job may have begun the same load meanwhile.
      entry = this.#entries.get(request.key) ?? this.#begin(request, bytes);
    }
    return this.#hold(entry, signal);
  }

  /** Drops residents until at most `bytes` remain, the longest idle first. What is in use stays. */
  async evict(bytes: number): Promise<void> {
    let remaining = this.#sum();
    for (const entry of this.#idle()) {
      if (remaining <= bytes) break;
      remaining -= entry.bytes;
      this.#drop(entry);
    }
    await this.#settled();
  }

  items(): { hook: string; id: string; bytes: number; idleSeconds: number }[] {
    const now = performance.now();
    return [...this.#entries.values()]
      .filter((entry) => entry.loaded && entry.request.isShape !== true)
      .map(({ request: { hook, id }, bytes, users, idleSince }) => ({
        hook,
        id,
        bytes,
        idleSeconds: users > 0 ? 0 : Math.round((now - idleSince) / 100) / 10,
      }));
  }

  /** Disposes everything in reverse order of loading, in use or not. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const entry of [...this.#entries.values()].reverse()) {
      entry.abort.abort();
      this.#drop(entry);
      await this.#settled();
    }
  }

  #begin(request: LoadRequest, bytes: number): Entry {
    const wanted: Claim = { hook: request.hook, id: request.id, bytes };
    const inUse = [...this.#entries.values()].filter((entry) => entry.users > 0);
    admit(
      wanted,
      this.#options.budget,
      inUse.map((entry) => ({ hook: entry.request.hook, id: entry.request.id, bytes: entry.bytes })),
    );
    // Nobody will ask again for what was loaded from files that have changed since.
    for (const idle of this.#idle()) if (idle.request.origin === request.origin) this.#drop(idle);
    let room = this.#options.budget - this.#sum();
    for (const idle of this.#idle()) {
      if (room >= bytes) break;
      room += idle.bytes;
      this.#drop(idle);
    }
    const abort = new AbortController();
    // Room must really be free before the load takes it.
    const state = this.#settled().then(() => request.load(abort.signal));
    const entry: Entry = {
      request,
      abort,
      state,
      bytes,
      users: 0,
      loaded: false,
      idleSince: performance.now(),
      timer: null,
    };
    this.#entries.set(request.key, entry);
    state.then(
      () => {
        entry.loaded = true;
        this.#changed();
      },
      () => {
        if (this.#entries.get(request.key) === entry) this.#entries.delete(request.key);
        request.unloaded();
      },
    );
    return entry;
  }

  async #hold(entry: Entry, signal: AbortSignal): Promise<Held> {
    entry.users += 1;
    if (entry.timer !== null) clearTimeout(entry.timer);
    entry.timer = null;
    let isHeld = true;
    const release = (): void => {
      if (!isHeld) return;
      isHeld = false;
      entry.users -= 1;
      if (entry.users === 0) this.#rest(entry);
    };
    try {
      return { state: await untilAborted(entry.state, signal), release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Nobody uses the entry any more. */
  #rest(entry: Entry): void {
    if (this.#entries.get(entry.request.key) !== entry) return;
    entry.idleSince = performance.now();
    if (!entry.loaded) {
      // Everyone who waited for this load has gone.
      entry.abort.abort();
      this.#drop(entry);
      return;
    }
    entry.timer = setTimeout(() => this.#drop(entry), this.#options.keepAliveMs);
    entry.timer.unref();
    this.#changed();
  }

  #drop(entry: Entry): void {
    if (!this.#entries.delete(entry.request.key)) return;
    if (entry.timer !== null) clearTimeout(entry.timer);
    const leaving = entry.state.then(
      async (state) => {
        await new Pulse().watch(
          () => dispose(state),
          DISPOSE_SECONDS,
          () => stuck(entry.request),
        );
        entry.request.unloaded();
      },
      // A load that failed has nothing to dispose; whoever waited for it was told.
      () => undefined,
    );
    this.#leaving.add(leaving);
    leaving.finally(() => this.#leaving.delete(leaving)).catch(reportLater);
    this.#changed();
  }

  #idle(): Entry[] {
    return [...this.#entries.values()]
      .filter((entry) => entry.users === 0 && entry.loaded)
      .sort((a, b) => a.idleSince - b.idleSince);
  }

  #sum(): number {
    return [...this.#entries.values()].reduce((sum, entry) => sum + entry.bytes, 0);
  }

  async #settled(): Promise<void> {
    await Promise.all(this.#leaving);
  }

  #changed(): void {
    this.#options.onChange?.();
  }
}

const stuck = ({ hook, id }: LoadRequest): WaverError =>
  new WaverError("plugin_timeout", `${hook} ${id} did not let go of what it had loaded within ${DISPOSE_SECONDS} s`);

async function dispose(state: State): Promise<void> {
  if (state === undefined || state === null) return;
  if (Symbol.asyncDispose in state) await state[Symbol.asyncDispose]();
  else if (Symbol.dispose in state) state[Symbol.dispose]();
}

/** A state that cannot be disposed leaks tensors: it ends the process as an unhandled rejection would. */
function reportLater(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

function untilAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((done, fail) => {
    const stop = (): void => fail(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    promise.then(done, fail).finally(() => signal.removeEventListener("abort", stop));
  });
}
