// Element types: names, libtorch's codes, the typed array of each.
import { addon } from "./addon.ts";
import type { TensorCore } from "./core.ts";
import { EngineError } from "./errors.ts";

const SIZES = {
  float32: 4,
  float64: 8,
  float16: 2,
  bfloat16: 2,
  int8: 1,
  uint8: 1,
  int16: 2,
  int32: 4,
  int64: 8,
  bool: 1,
  float8_e4m3fn: 1,
  float8_e5m2: 1,
  complex64: 8,
  complex128: 16,
  uint16: 2,
  uint32: 4,
  uint64: 8,
};
export type DType = keyof typeof SIZES;
export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

export const DTYPES = Object.keys(SIZES) as readonly DType[];

/** Bytes of one element. */
export function itemSize(dtype: DType): number {
  return SIZES[dtype];
}

export function isDType(name: string): name is DType {
  return Object.hasOwn(SIZES, name);
}

export function isFloating(dtype: DType): boolean {
  return dtype.startsWith("float") || dtype === "bfloat16";
}

let byCode: Map<number, DType> | null = null;
/** @internal */
export function dtypeName(code: number): DType {
  byCode ??= new Map(DTYPES.map((name) => [addon().dtypeCode(name), name]));
  const name = byCode.get(code);
  if (!name) throw new EngineError("op_arguments", `a tensor has libtorch's dtype ${code}, which has no name here`);
  return name;
}

function emptyArray(dtype: DType, n: number): TypedArray | null {
  switch (dtype) {
    case "float32":
      return new Float32Array(n);
    case "float64":
      return new Float64Array(n);
    case "int8":
      return new Int8Array(n);
    case "uint8":
    case "bool":
      return new Uint8Array(n);
    case "int16":
      return new Int16Array(n);
    case "int32":
      return new Int32Array(n);
    case "int64":
      return new BigInt64Array(n);
    case "uint16":
      return new Uint16Array(n);
    case "uint32":
      return new Uint32Array(n);
    case "uint64":
      return new BigUint64Array(n);
    default:
      return null;
  }
}

/** @internal The elements as `dtype`'s typed array; a type without one (bfloat16, float16, float8) widens to float32. */
export function readArray(t: TensorCore, dtype: DType): TypedArray {
  const target = emptyArray(dtype, 0) === null ? "float32" : dtype;
  const out = emptyArray(target, t.numel) as TypedArray;
  if (t.dtype === target) {
    addon().read(t.live(), out);
    return out;
  }
  const converted = t.converted(target);
  try {
    addon().read(converted.live(), out);
  } finally {
    converted.dispose();
  }
  return out;
}

/** The dtype that a typed array holds. */
export function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array) return "float32";
  if (data instanceof Float64Array) return "float64";
  if (data instanceof Int8Array) return "int8";
  if (data instanceof Uint8Array || data instanceof Uint8ClampedArray) return "uint8";
  if (data instanceof Int16Array) return "int16";
  if (data instanceof Int32Array) return "int32";
  if (data instanceof BigInt64Array) return "int64";
  if (data instanceof Uint16Array) return "uint16";
  if (data instanceof Uint32Array) return "uint32";
  return "uint64";
}
