// The one call that every operator passes through.
import { addon, shortWay } from "./addon.ts";
import { TensorCore } from "./core.ts";
import { EngineError } from "./errors.ts";
import { Generator } from "./generator.ts";
import type { Schema } from "./schema.ts";
import { Tensor } from "./tensor.ts";

/** A number that must reach libtorch as a double even where it is integral: `scalar(2)`. */
export class Scalar {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}
/** Forces a double, where `2` would be an int64 and keep an integer tensor integral. */
export function scalar(value: number): Scalar {
  return new Scalar(value);
}

export type Arg = TensorCore | Generator | Scalar | number | boolean | string | null | undefined | readonly Arg[];
export type Value = Tensor | number | boolean | string | null | Value[];

/** Sees every operator called inside `withInterceptor`: tracing, profiling and counting are each one of these. */
export interface Interceptor {
  /** Answers in the operator's place, unless undefined; the innermost that does is heard. */
  instead?(op: Schema, args: readonly Arg[]): Value | undefined;
  before?(op: Schema, args: readonly Arg[]): void;
  after?(op: Schema, args: readonly Arg[], result: Value): void;
}

const interceptors: Interceptor[] = [];
let intercepting = false; // operators that an interceptor itself calls are not seen by interceptors

/** Runs `fn` (synchronous) with an interceptor on; they nest, the inner one closest to the operator. */
export function withInterceptor<T>(interceptor: Interceptor, fn: () => T): T {
  interceptors.push(interceptor);
  try {
    const result = fn();
    if (result instanceof Promise)
      throw new EngineError("scope_async", "withInterceptor() was given an async function");
    return result;
  } finally {
    interceptors.pop();
  }
}

function wrong(op: Schema, i: number, what: string, got: unknown): EngineError {
  const kind = got === null ? "null" : typeof got;
  return new EngineError("op_arguments", `${op.name}: argument ${op.names[i]} must be ${what}, got ${kind}`);
}

function raw(op: Schema, i: number, arg: Arg): unknown {
  const kind = op.args[i];
  if (kind === "T") {
    if (arg instanceof TensorCore) return arg.handle === 0 ? dead(op, i, arg) : arg.handle;
    if (arg === null || arg === undefined) return arg;
    throw wrong(op, i, "a tensor", arg);
  }
  if (kind === ".") {
    if (arg instanceof TensorCore) throw wrong(op, i, "a plain value, not a tensor", arg);
    return arg;
  }
  if (arg === null || arg === undefined) return arg;
  if (kind === "G") {
    if (!(arg instanceof Generator)) throw wrong(op, i, "a Generator", arg);
    return arg.id;
  }
  if (!Array.isArray(arg)) throw wrong(op, i, "a list of tensors", arg);
  return (arg as readonly Arg[]).map((t) => {
    if (t instanceof TensorCore) return t.handle === 0 ? dead(op, i, t) : t.handle;
    if (t === null) return null;
    throw wrong(op, i, "a list of tensors", t);
  });
}

function dead(op: Schema, i: number, t: TensorCore): never {
  const e = t.deadError();
  throw new EngineError(e.code, `${op.name}: argument ${op.names[i]}: ${e.message}`, e.hint);
}

function wrap(op: Schema, i: number, value: unknown, args: readonly Arg[]): Value {
  const alias = op.alias[i] as number;
  if (alias >= 0) return args[alias] as Tensor;
  const kind = op.returns[i];
  if (kind === "T") return value === 0 || value === null ? null : new Tensor(value as number);
  if (kind === "L") return (value as number[]).map((h) => new Tensor(h));
  return value as Value;
}

// what stands before each argument in the shared buffer, as src/ops.cc reads it
const LEFT_OUT = 0;
const NULL = 1;
const NUMBER = 2;
const BOOL = 3;
const TENSOR = 4;
const LIST = 5;

/** Writes the arguments into the shared buffer; false: something among them must take the long way. */
function write(op: Schema, args: readonly Arg[], buffer: Float64Array): boolean {
  if (args.length > op.args.length) return false;
  let at = 0;
  for (let i = 0; i < args.length; i++) {
    const arg = args[i];
    if (arg instanceof TensorCore) {
      if (arg.handle === 0 || op.args[i] !== "T") return false;
      buffer[at++] = TENSOR;
      buffer[at++] = arg.handle;
    } else if (typeof arg === "number") {
      buffer[at++] = NUMBER;
      buffer[at++] = arg;
    } else if (arg === undefined) buffer[at++] = LEFT_OUT;
    else if (arg === null) buffer[at++] = NULL;
    else if (typeof arg === "boolean") {
      buffer[at++] = BOOL;
      buffer[at++] = arg ? 1 : 0;
    } else if (Array.isArray(arg)) {
      if (at + arg.length + 2 * args.length > buffer.length) return false;
      buffer[at++] = LIST;
      buffer[at++] = arg.length;
      const tensors = op.args[i] === "L";
      for (const each of arg as readonly Arg[]) {
        if (tensors ? !(each instanceof TensorCore) || each.handle === 0 : typeof each !== "number") return false;
        buffer[at++] = tensors ? (each as TensorCore).handle : (each as number);
      }
    } else return false;
  }
  return true;
}

/** The short way: null when this call cannot take it, or failed and shall say why on the long one. */
function quick(op: Schema, args: readonly Arg[]): Value | null {
  const short = shortWay();
  if (short === null || !op.givesTensors || !write(op, args, short.buffer)) return null;
  const { buffer } = short;
  const count = short.call(op.id, args.length);
  if (count < 0) return null;
  if (count === 1) {
    const alias = op.alias[0] as number;
    return alias >= 0 ? (args[alias] as Tensor) : new Tensor(buffer[0] as number);
  }
  const results = new Array<Value>(count);
  for (let i = 0; i < count; i++) {
    const alias = op.alias[i] as number;
    const handle = buffer[i] as number;
    results[i] = alias >= 0 ? (args[alias] as Tensor) : handle === 0 ? null : new Tensor(handle);
  }
  return results;
}

function dispatch(op: Schema, args: readonly Arg[]): Value {
  if (op.id < 0) op.resolve();
  return quick(op, args) ?? dispatchLong(op, args);
}

function dispatchLong(op: Schema, args: readonly Arg[]): Value {
  const n = args.length;
  if (n > op.args.length) {
    throw new EngineError(
      "op_arguments",
      `${op.name}: ${n} arguments given, it takes ${op.args.length} (${op.names.join(", ")})`,
    );
  }
  const native = addon();
  let result: unknown;
  // spelled out for few arguments: a spread costs more than the crossing
  if (n === 1) result = native.call(op.id, raw(op, 0, args[0]));
  else if (n === 2) result = native.call(op.id, raw(op, 0, args[0]), raw(op, 1, args[1]));
  else if (n === 3) result = native.call(op.id, raw(op, 0, args[0]), raw(op, 1, args[1]), raw(op, 2, args[2]));
  else {
    const list = new Array<unknown>(n);
    for (let i = 0; i < n; i++) list[i] = raw(op, i, args[i]);
    result = native.call(op.id, ...list);
  }
  if (op.returns.length === 1) return wrap(op, 0, result, args);
  if (op.returns.length === 0) return null;
  return (result as unknown[]).map((v, i) => wrap(op, i, v, args));
}

function intercepted(op: Schema, args: readonly Arg[]): Value {
  const layers = interceptors.slice();
  const quietly = (fn: () => void) => {
    intercepting = true;
    try {
      fn();
    } finally {
      intercepting = false;
    }
  };
  quietly(() => {
    for (const l of layers) l.before?.(op, args);
  });
  let answer: Value | undefined;
  quietly(() => {
    for (const l of layers.toReversed()) answer ??= l.instead?.(op, args);
  });
  const result = answer ?? dispatch(op, args);
  quietly(() => {
    for (const l of layers.toReversed()) l.after?.(op, args, result);
  });
  return result;
}

/** Calls an operator with arguments in schema order; `undefined` takes the schema's default. */
export function call(op: Schema, ...args: Arg[]): Value {
  return interceptors.length === 0 || intercepting ? dispatch(op, args) : intercepted(op, args);
}

/** The same for an operator that returns one tensor. */
export function one(op: Schema, ...args: Arg[]): Tensor {
  return (interceptors.length === 0 || intercepting ? dispatch(op, args) : intercepted(op, args)) as Tensor;
}

/** The same for an operator that returns several tensors, or a list. */
export function many(op: Schema, ...args: Arg[]): Tensor[] {
  return (interceptors.length === 0 || intercepting ? dispatch(op, args) : intercepted(op, args)) as Tensor[];
}
