// Free functions: creation here; networks' operators in functional.ts.
import { addon } from "./addon.ts";
import { type Arg, call, many, one, scalar, type Value } from "./call.ts";
import { type DType, dtypeOf, type TypedArray } from "./dtype.ts";
import { EngineError } from "./errors.ts";
import type { Generator } from "./generator.ts";
import { schema, table } from "./schema.ts";
import { type Device, type Dims, Tensor } from "./tensor.ts";

// biome-ignore format: a table
const A = table(
  "zeros", "ones", "full", "empty.memory_format", "zeros_like", "ones_like", "empty_like", "full_like", "arange.start_step", "linspace", "eye",
  "randn.generator", "rand.generator", "randint.low_generator", "randperm.generator", "normal_", "uniform_", "bernoulli_.float",
  "cat", "stack", "where.self", "meshgrid.indexing", "outer", "einsum",
  "complex", "polar", "view_as_real", "view_as_complex", "allclose", "equal",
);

export interface Options {
  dtype?: DType;
  device?: Device;
}
export interface RandomOptions extends Options {
  generator: Generator;
}
export type Nested = number | boolean | readonly Nested[];

/** Any operator by name: `op("aten::cummax")(x, 0)`. The type argument says what it returns. */
export function op<T extends Value = Tensor>(name: string, overload = ""): (...args: Arg[]) => T {
  const s = schema(name, overload);
  return (...args) => call(s, ...args) as T;
}

const RAGGED = "tensor(): ragged nesting";
/** Row-major numbers and the shape; `shape` is complete when the first number is reached. */
function flatten(data: readonly Nested[], into: number[], shape: number[], depth = 0): void {
  if (into.length === 0 && shape.length === depth) shape.push(data.length);
  else if (shape[depth] !== data.length) {
    throw new EngineError("tensor_shape", `${RAGGED}, ${shape[depth]} and ${data.length} at depth ${depth}`);
  }
  for (const x of data) {
    if (Array.isArray(x)) {
      flatten(x as readonly Nested[], into, shape, depth + 1);
    } else {
      if (shape.length !== depth + 1) throw new EngineError("tensor_shape", RAGGED);
      into.push(Number(x));
    }
  }
}

function firstLeaf(data: Nested): number | boolean | undefined {
  return Array.isArray(data) ? firstLeaf((data as readonly Nested[])[0] as Nested) : (data as number | boolean);
}

/** A tensor from numbers: nested arrays give the shape, a typed array gives one axis. Default float32 (bool for booleans). */
export function tensor(data: Nested | TypedArray, { dtype, device }: Options = {}): Tensor {
  let source: TypedArray;
  let shape: number[] = [];
  let natural: DType;
  if (ArrayBuffer.isView(data)) {
    source = data;
    shape = [data.length];
    natural = dtype ?? dtypeOf(data);
  } else {
    const flat: number[] = [];
    if (Array.isArray(data)) flatten(data as readonly Nested[], flat, shape);
    else flat.push(Number(data));
    natural = dtype ?? (typeof firstLeaf(data) === "boolean" ? "bool" : "float32");
    // float64 holds every value a JS number can give, integers to 2^53 included
    source = natural === "float32" ? Float32Array.from(flat) : Float64Array.from(flat);
  }
  const made = new Tensor(addon().fromBytes(source, dtypeOf(source), shape));
  if (made.dtype === natural && (device === undefined || device === "cpu")) return made;
  try {
    return made.to({ dtype: natural, device });
  } finally {
    made.dispose();
  }
}

/** A CPU tensor from raw little-endian bytes (copied). */
export function fromBytes(bytes: Uint8Array, dtype: DType, shape: readonly number[]): Tensor {
  return new Tensor(addon().fromBytes(bytes, dtype, shape));
}

export function zeros(shape: readonly number[], { dtype = "float32", device }: Options = {}): Tensor {
  return one(A.zeros, shape, dtype, undefined, device);
}
export function ones(shape: readonly number[], { dtype = "float32", device }: Options = {}): Tensor {
  return one(A.ones, shape, dtype, undefined, device);
}
export function full(shape: readonly number[], value: number, { dtype = "float32", device }: Options = {}): Tensor {
  return one(A.full, shape, value, dtype, undefined, device);
}
/** Uninitialised memory. */
export function empty(shape: readonly number[], { dtype = "float32", device }: Options = {}): Tensor {
  return one(A["empty.memory_format"], shape, dtype, undefined, device);
}
export function zerosLike(t: Tensor, { dtype, device }: Options = {}): Tensor {
  return one(A.zeros_like, t, dtype, undefined, device);
}
export function onesLike(t: Tensor, { dtype, device }: Options = {}): Tensor {
  return one(A.ones_like, t, dtype, undefined, device);
}
export function emptyLike(t: Tensor, { dtype, device }: Options = {}): Tensor {
  return one(A.empty_like, t, dtype, undefined, device);
}
export function fullLike(t: Tensor, value: number, { dtype, device }: Options = {}): Tensor {
  return one(A.full_like, t, value, dtype, undefined, device);
}
/** arange(end) or arange(start, end, step); int64 when all are integers, else float32, unless a dtype is given. */
export function arange(start: number, end?: number, step = 1, { dtype, device }: Options = {}): Tensor {
  const [from, to] = end === undefined ? [0, start] : [start, end];
  const chosen = dtype ?? ([from, to, step].every(Number.isInteger) ? "int64" : "float32");
  return one(A["arange.start_step"], from, to, step, chosen, undefined, device);
}
export function linspace(
  start: number,
  end: number,
  steps: number,
  { dtype = "float32", device }: Options = {},
): Tensor {
  return one(A.linspace, scalar(start), scalar(end), steps, dtype, undefined, device);
}
export function eye(n: number, { dtype = "float32", device }: Options = {}): Tensor {
  return one(A.eye, n, dtype, undefined, device);
}

/** Standard normal numbers; equal to torch.randn with the same generator. */
export function randn(shape: readonly number[], { generator, dtype = "float32", device }: RandomOptions): Tensor {
  return one(A["randn.generator"], shape, needed(generator), dtype, undefined, device ?? generator.device);
}
export function rand(shape: readonly number[], { generator, dtype = "float32", device }: RandomOptions): Tensor {
  return one(A["rand.generator"], shape, needed(generator), dtype, undefined, device ?? generator.device);
}
/** Integers in [low, high). */
export function randint(
  low: number,
  high: number,
  shape: readonly number[],
  { generator, dtype = "int64", device }: RandomOptions,
): Tensor {
  return one(
    A["randint.low_generator"],
    low,
    high,
    shape,
    needed(generator),
    dtype,
    undefined,
    device ?? generator.device,
  );
}
export function randperm(n: number, { generator, dtype = "int64", device }: RandomOptions): Tensor {
  return one(A["randperm.generator"], n, needed(generator), dtype, undefined, device ?? generator.device);
}
/** Fills in place. */
export function normal_(t: Tensor, mean: number, std: number, generator: Generator): Tensor {
  return one(A.normal_, t, mean, std, needed(generator));
}
export function uniform_(t: Tensor, from: number, to: number, generator: Generator): Tensor {
  return one(A.uniform_, t, from, to, needed(generator));
}
export function bernoulli_(t: Tensor, p: number, generator: Generator): Tensor {
  return one(A["bernoulli_.float"], t, p, needed(generator));
}
function needed(generator: Generator | undefined): Generator {
  if (!generator)
    throw new EngineError("op_arguments", "a random operator needs { generator }: there is no global one");
  return generator;
}

export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  return one(A.cat, tensors, dim);
}
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  return one(A.stack, tensors, dim);
}
export function where(condition: Tensor, a: Tensor, b: Tensor): Tensor {
  return one(A["where.self"], condition, a, b);
}
export function meshgrid(tensors: readonly Tensor[], indexing: "ij" | "xy" = "ij"): Tensor[] {
  return many(A["meshgrid.indexing"], tensors, indexing);
}
export function outer(a: Tensor, b: Tensor): Tensor {
  return one(A.outer, a, b);
}
export function einsum(equation: string, ...tensors: readonly Tensor[]): Tensor {
  return one(A.einsum, equation, tensors);
}
export function complex(real: Tensor, imag: Tensor): Tensor {
  return one(A.complex, real, imag);
}
export function polar(abs: Tensor, angle: Tensor): Tensor {
  return one(A.polar, abs, angle);
}
export function viewAsReal(t: Tensor): Tensor {
  return one(A.view_as_real, t);
}
export function viewAsComplex(t: Tensor): Tensor {
  return one(A.view_as_complex, t);
}
/** |a - b| <= atol + rtol * |b| everywhere. */
export function allClose(a: Tensor, b: Tensor, { rtol = 1e-5, atol = 1e-8, equalNan = false } = {}): boolean {
  return call(A.allclose, a, b, rtol, atol, equalNan) as boolean;
}
/** Same shape and same elements. */
export function equal(a: Tensor, b: Tensor): boolean {
  return call(A.equal, a, b) as boolean;
}
export type { Dims };
