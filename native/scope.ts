// Who frees a tensor: the scope it was made in, or, outside of one, the caller. Finalisers are only the net.
import { addon } from "./addon.ts";
import { TensorCore } from "./core.ts";
import { EngineError } from "./errors.ts";

/** The tensors of one scope. A tensor points to its owner; one that moved away is skipped when the owner is emptied. */
export interface Owner {
  tensors: TensorCore[];
  compactAt: number;
  open: boolean;
}

const COMPACT_AT = 1024; // tensors disposed by hand inside a long loop are forgotten when the list has doubled

let current: Owner | null = null;
let leakedTensors = 0;
let buffer = new Float64Array(256);

function newOwner(): Owner {
  return { tensors: [], compactAt: COMPACT_AT, open: true };
}

const net = new FinalizationRegistry<number>((handle) => {
  if (addon().free(handle)) leakedTensors++;
});
const scopeNet = new FinalizationRegistry<Owner>((owner) => {
  leakedTensors += empty(owner);
});

/** @internal A new tensor goes to the scope that runs now; outside of one it is the caller's. */
export function adopt(t: TensorCore): void {
  if (current === null) free(t);
  else moveTo(t, current);
}

/** @internal The tensor is the caller's from here on. */
export function free(t: TensorCore): void {
  t.owner = null;
  if (!t.netted) {
    t.netted = true;
    net.register(t, t.handle, t);
  }
}

function moveTo(t: TensorCore, owner: Owner): void {
  forgetNet(t);
  t.owner = owner;
  if (owner.tensors.length >= owner.compactAt) {
    owner.tensors = owner.tensors.filter((x) => x.owner === owner && x.handle !== 0);
    owner.compactAt = Math.max(COMPACT_AT, owner.tensors.length * 2);
  }
  owner.tensors.push(t);
}

/** @internal */
export function forgetNet(t: TensorCore): void {
  if (t.netted) {
    t.netted = false;
    net.unregister(t);
  }
}

function empty(owner: Owner): number {
  const { tensors } = owner;
  if (buffer.length < tensors.length * 2) buffer = new Float64Array(tensors.length * 4);
  let n = 0;
  for (const t of tensors) {
    if (t.owner !== owner || t.handle === 0) continue;
    buffer[n++] = t.handle;
    const g = t.dropGrad();
    if (g !== 0) buffer[n++] = g;
    if (t.derived !== null) t.dropDerived();
    t.handle = 0;
    t.owner = null;
  }
  owner.tensors = [];
  return n === 0 ? 0 : addon().freeMany(buffer, n);
}

/** Every tensor reachable through arrays, plain objects, Maps and Sets. */
export function tensorsIn(value: unknown, visit: (t: TensorCore) => void, seen: Set<object> = new Set()): void {
  if (typeof value !== "object" || value === null) return;
  if (value instanceof TensorCore) {
    visit(value);
    return;
  }
  if (seen.has(value)) return;
  seen.add(value);
  if (Array.isArray(value) || value instanceof Set) {
    for (const v of value) tensorsIn(v, visit, seen);
  } else if (value instanceof Map) {
    for (const [k, v] of value) {
      tensorsIn(k, visit, seen);
      tensorsIn(v, visit, seen);
    }
  } else {
    const proto = Object.getPrototypeOf(value);
    if (proto !== Object.prototype && proto !== null) return;
    for (const v of Object.values(value)) tensorsIn(v, visit, seen);
  }
}

function refusePromise(value: unknown, what: string): void {
  if (typeof value === "object" && value !== null && "then" in value && typeof value.then === "function") {
    throw new EngineError(
      "scope_async",
      `${what} was given an async function; tensors made after an await would belong to nobody`,
      "make the function synchronous, or use a `new Scope()` object and run() each synchronous part in it",
    );
  }
}

/**
 * Runs `fn` and frees every tensor made inside, but those in its return value (a tensor, or arrays, plain objects,
 * Maps and Sets of them): these move to the enclosing scope, or belong to the caller. Synchronous only.
 */
export function scope<T>(fn: () => T): T {
  const outer = current;
  const owner = newOwner();
  current = owner;
  try {
    const result = fn();
    refusePromise(result, "scope()");
    tensorsIn(result, (t) => {
      if (t.owner !== owner) return;
      if (outer === null) free(t);
      else moveTo(t, outer);
    });
    return result;
  } finally {
    current = outer;
    owner.open = false;
    empty(owner);
  }
}

/**
 * A scope as an object, for work that spans awaits: each synchronous part goes through run(), the tensors live until
 * dispose. Several may be interleaved.
 */
export class Scope implements Disposable {
  readonly #owner = newOwner();

  constructor() {
    scopeNet.register(this, this.#owner, this);
  }

  /** Tensors made by `fn` belong to this scope. */
  run<T>(fn: () => T): T {
    if (!this.#owner.open) throw new EngineError("scope_closed", "run() on a scope that was disposed");
    const outer = current;
    current = this.#owner;
    try {
      const result = fn();
      refusePromise(result, "Scope.run()");
      return result;
    } finally {
      current = outer;
    }
  }

  /** Moves a tensor of this scope to the caller. */
  keep<T extends TensorCore>(t: T): T {
    return keep(t);
  }

  /** Takes a tensor over: it is freed with this scope. */
  own<T extends TensorCore>(t: T): T {
    if (!this.#owner.open) throw new EngineError("scope_closed", "own() on a scope that was disposed");
    if (t.owner !== this.#owner) moveTo(t, this.#owner);
    return t;
  }

  /** Frees what was made so far; the scope stays open. */
  clear(): void {
    empty(this.#owner);
  }

  [Symbol.dispose](): void {
    this.#owner.open = false;
    scopeNet.unregister(this);
    empty(this.#owner);
  }

  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** Moves a tensor out of all scopes: the caller disposes it. */
export function keep<T extends TensorCore>(t: T): T {
  if (t.owner !== null) free(t);
  return t;
}

/** Handles alive now: tensors not yet disposed, views and gradients that were read included. */
export function liveTensors(): number {
  return addon().liveTensors();
}

/** Tensors that only a finaliser freed: each one is a missing dispose. */
export function leaked(): number {
  return leakedTensors;
}
