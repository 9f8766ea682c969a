// The one door to the engine. Importing it loads nothing; the first operator loads the addon.
export * from "./autograd.ts";
export { type Arg, call, type Interceptor, many, one, Scalar, scalar, type Value, withInterceptor } from "./call.ts";
export { type GroupOptions, Pending, ProcessGroup, type RankReduction, RankStore, type StoreOptions } from "./dist.ts";
export { DTYPES, type DType, isDType, isFloating, itemSize, type TypedArray } from "./dtype.ts";
export { EngineError } from "./errors.ts";
export * from "./functional.ts";
export { Generator } from "./generator.ts";
export * from "./nn/index.ts";
export * from "./ops.ts";
export * from "./optim/index.ts";
export * from "./parallel/index.ts";
export type { Operand } from "./pointwise.ts";
export { type MatmulPolicy, matmulPolicy, withMatmulDtype } from "./precision.ts";
export * from "./runtime.ts";
export * from "./safetensors.ts";
export { type Schema, schema } from "./schema.ts";
export { keep, leaked, liveTensors, Scope, scope } from "./scope.ts";
export { type Device, type MemoryFormat, Tensor } from "./tensor.ts";
