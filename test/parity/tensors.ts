/** Plain arrays of a case as tensors of the engine. */
import { type DType, scope, type Tensor, tensor } from "../../native/index.ts";
import type { NdArray } from "./golden.ts";

/** float32 unless said otherwise; on the CPU. Belongs to the scope that runs, or to the caller. */
export const toTensor = (array: NdArray, dtype: DType = "float32"): Tensor =>
  scope(() => tensor(Float64Array.from(array.data), { dtype }).view(array.shape));
