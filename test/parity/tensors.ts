/** Plain arrays of a case as tensors of the engine. */
import { tensor, type DType, type Tensor } from "../../native/index.ts";
import type { NdArray } from "./golden.ts";

/** float32 unless said otherwise; on the CPU. Belongs to the scope that runs, or to the caller. */
export function toTensor(array: NdArray, dtype: DType = "float32"): Tensor {
  const flat = tensor(Float64Array.from(array.data), { dtype });
  try {
    return flat.view(array.shape).clone();
  } finally {
    flat.dispose();
  }
}
