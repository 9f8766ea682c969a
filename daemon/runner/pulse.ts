/**
 * Cuts off what shows no sign of life: a promise of a plugin that never settles would hold its job, and all that the
 * job holds, for ever (reliability.md P1). Signs of life are any use of the context, work of the host that is under way
 * for it, and a process that computes.
 */
import type { WaverError } from "../../plugins/index.ts";

const TICK_MS = 250;
/** A turn of the event loop that comes this much too late was held up by work. */
const LATE_MS = 250;
/** Share of one core from which the process counts as computing; an idle one takes about a hundredth. */
const COMPUTING = 0.2;

/** The signs of life of one provider or operation. */
export class Pulse {
  #touches = 0;
  #underWay = 0;
  #watched = 0;
  readonly #onTurn: ((isRunning: boolean) => void) | undefined;

  /** `onTurn`: told when the code itself begins to run, and when all of it waits for the host or has ended. */
  constructor(onTurn?: (isRunning: boolean) => void) {
    this.#onTurn = onTurn;
  }

  touch(): void {
    this.#touches += 1;
  }

  #count(watched: number, underWay: number): void {
    const before = this.#watched > this.#underWay;
    this.#watched += watched;
    this.#underWay += underWay;
    const isRunning = this.#watched > this.#underWay;
    if (isRunning !== before) this.#onTurn?.(isRunning);
  }

  /** Work of the host, which has limits of its own: while it is under way its caller may be silent. */
  async host<T>(work: () => Promise<T>): Promise<T> {
    this.#count(0, 1);
    try {
      return await work();
    } finally {
      this.#count(0, -1);
      this.touch();
    }
  }

  /** The reverse, inside of `host`: the host itself waits for the plugin. */
  async plugin<T>(work: () => Promise<T>): Promise<T> {
    this.#count(0, -1);
    this.touch();
    try {
      return await work();
    } finally {
      this.#count(0, 1);
    }
  }

  /** What `work` gives, or a rejection with `hung()` after `seconds` without a sign of life. */
  async watch<T>(work: () => Promise<T>, seconds: number, hung: () => WaverError): Promise<T> {
    this.#count(1, 0);
    try {
      return await this.#watch(work, seconds, hung);
    } finally {
      this.#count(-1, 0);
    }
  }

  #watch<T>(work: () => Promise<T>, seconds: number, hung: () => WaverError): Promise<T> {
    return new Promise((resolve, reject) => {
      let seen = this.#touches;
      let silent = 0;
      const look = (elapsed: number): void => {
        if (this.#underWay > 0 || seen !== this.#touches) silent = 0;
        else silent += elapsed;
        seen = this.#touches;
        if (silent < seconds * 1000) return;
        unwatched(look);
        reject(hung());
      };
      watched(look);
      // A promise that settles after all, later, is heard by nobody.
      Promise.try(work)
        .then(resolve, reject)
        .finally(() => unwatched(look));
    });
  }
}

const looks = new Set<(elapsed: number) => void>();
let timer: Timer | null = null;
let lookedAt = 0;
let computed = 0;

function watched(look: (elapsed: number) => void): void {
  looks.add(look);
  if (timer !== null) return;
  lookedAt = performance.now();
  computed = cpuMs();
  timer = setInterval(tick, TICK_MS);
  timer.unref();
}

function unwatched(look: (elapsed: number) => void): void {
  looks.delete(look);
  if (looks.size > 0 || timer === null) return;
  clearInterval(timer);
  timer = null;
}

function tick(): void {
  const now = performance.now();
  const cpu = cpuMs();
  const elapsed = now - lookedAt;
  const isComputing = elapsed > TICK_MS + LATE_MS || cpu - computed > COMPUTING * elapsed;
  lookedAt = now;
  computed = cpu;
  if (!isComputing) for (const look of [...looks]) look(elapsed);
}

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** What a plugin sees of the host's media or store: all that it asks for is a sign of its life. */
export function living<T extends object>(target: T, pulse: Pulse): T {
  return new Proxy(target, {
    get(_, name) {
      const value = Reflect.get(target, name, target) as unknown;
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => {
        pulse.touch();
        const given = args.map((each) => (isStream(each) ? asked(each, pulse) : each));
        return heard((value as (...given: unknown[]) => unknown).apply(target, given), pulse);
      };
    },
  });
}

/** A stream of the host's, or a record of streams, whose every item is a sign of life. */
export function heard<T>(answer: T, pulse: Pulse): T {
  if (answer instanceof Promise) return pulse.host(() => answer) as T;
  if (isStream(answer)) return stream(answer, (next) => pulse.host(next)) as T;
  if (answer !== null && typeof answer === "object" && Object.values(answer).some(isStream))
    return Object.fromEntries(Object.entries(answer).map(([name, each]) => [name, heard(each, pulse)])) as T;
  return answer;
}

/** A stream of the plugin's that the host reads. */
const asked = (given: AsyncIterable<unknown>, pulse: Pulse): AsyncIterable<unknown> =>
  stream(given, (next) => pulse.plugin(next));

const isStream = (value: unknown): value is AsyncIterable<unknown> =>
  value !== null && typeof value === "object" && Symbol.asyncIterator in value;

type Next = () => Promise<IteratorResult<unknown>>;

/** The same stream with `each` around every wait for an item. */
function stream(inner: AsyncIterable<unknown>, each: (next: Next) => ReturnType<Next>): AsyncIterable<unknown> {
  return {
    [Symbol.asyncIterator]() {
      const items = inner[Symbol.asyncIterator]();
      return {
        next: () => each(() => items.next()),
        return: async () => (await items.return?.()) ?? { done: true, value: undefined },
      };
    },
  };
}
