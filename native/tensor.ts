// The tensor and its operators of shape, selection, reduction and matrix product; elementwise ones are in pointwise.ts.
import { many, one } from "./call.ts";
import { type DType, isDType } from "./dtype.ts";
import { Pointwise } from "./pointwise.ts";
import { table } from "./schema.ts";

export type Dims = number | readonly number[];
/** "cpu", "cuda", "cuda:1", "meta" */
export type Device = string;
export type MemoryFormat = "contiguous_format" | "preserve_format" | "channels_last" | "channels_last_3d";
interface Conversion {
  dtype?: DType;
  device?: Device;
  memoryFormat?: MemoryFormat;
  copy?: boolean;
}

// biome-ignore format: a table
const A = table(
  "clone", "detach", "contiguous", "to.dtype_layout", "matmul", "mm", "bmm", "addmm", "transpose.int", "permute",
  "reshape", "view", "flatten.using_ints", "unflatten.int", "squeeze", "squeeze.dim", "unsqueeze", "expand",
  "repeat", "repeat_interleave.self_int", "narrow", "select.int", "slice.Tensor", "chunk", "split.Tensor",
  "split_with_sizes", "unbind.int", "movedim.intlist", "diagonal", "index_select", "index.Tensor", "gather",
  "scatter.value", "scatter.src", "scatter_add", "index_add", "flip", "roll", "triu", "tril", "sum",
  "sum.dim_IntList", "mean", "mean.dim", "std.correction", "var.correction", "prod", "prod.dim_int", "amax", "amin",
  "argmax", "argmin", "max", "min", "any", "any.dim", "all", "all.dim", "linalg_vector_norm", "cumsum", "logsumexp",
  "softmax.int", "log_softmax.int", "sort", "argsort", "topk", "nonzero",
);

export class Tensor extends Pointwise {
  protected wrapUnowned(handle: number): Tensor {
    return new Tensor(handle, false);
  }
  /** @internal */
  converted(dtype: DType): Tensor {
    return this.to(dtype);
  }
  // copies and layout
  clone(): Tensor {
    return one(A.clone, this);
  }
  detach(): Tensor {
    return one(A.detach, this);
  }
  contiguous(memoryFormat?: MemoryFormat): Tensor {
    return one(A.contiguous, this, memoryFormat);
  }
  /** Another dtype, device or memory format; the same storage where nothing changes. */
  to(target: DType | Device | { dtype?: DType; device?: Device; memoryFormat?: MemoryFormat; copy?: boolean }): Tensor {
    const { dtype, device, memoryFormat, copy }: Conversion =
      typeof target !== "string" ? target : isDType(target) ? { dtype: target } : { device: target };
    return one(A["to.dtype_layout"], this, dtype, undefined, device, undefined, false, copy ?? false, memoryFormat);
  }
  float(): Tensor {
    return this.to("float32");
  }
  matmul(other: Tensor): Tensor {
    return one(A.matmul, this, other);
  }
  mm(other: Tensor): Tensor {
    return one(A.mm, this, other);
  }
  bmm(other: Tensor): Tensor {
    return one(A.bmm, this, other);
  }
  /** beta * this + alpha * (a @ b) */
  addmm(a: Tensor, b: Tensor, { beta = 1, alpha = 1 } = {}): Tensor {
    return one(A.addmm, this, a, b, beta, alpha);
  }
  transpose(a: number, b: number): Tensor {
    return one(A["transpose.int"], this, a, b);
  }
  permute(dims: readonly number[]): Tensor {
    return one(A.permute, this, dims);
  }
  reshape(shape: readonly number[]): Tensor {
    return one(A.reshape, this, shape);
  }
  view(shape: readonly number[]): Tensor {
    return one(A.view, this, shape);
  }
  flatten(start = 0, end = -1): Tensor {
    return one(A["flatten.using_ints"], this, start, end);
  }
  unflatten(dim: number, sizes: readonly number[]): Tensor {
    return one(A["unflatten.int"], this, dim, sizes);
  }
  squeeze(dim?: number): Tensor {
    return dim === undefined ? one(A.squeeze, this) : one(A["squeeze.dim"], this, dim);
  }
  unsqueeze(dim: number): Tensor {
    return one(A.unsqueeze, this, dim);
  }
  expand(shape: readonly number[]): Tensor {
    return one(A.expand, this, shape);
  }
  repeat(times: readonly number[]): Tensor {
    return one(A.repeat, this, times);
  }
  repeatInterleave(times: number, dim?: number): Tensor {
    return one(A["repeat_interleave.self_int"], this, times, dim);
  }
  narrow(dim: number, start: number, length: number): Tensor {
    return one(A.narrow, this, dim, start, length);
  }
  select(dim: number, index: number): Tensor {
    return one(A["select.int"], this, dim, index);
  }
  slice(dim: number, start?: number | null, end?: number | null, step = 1): Tensor {
    return one(A["slice.Tensor"], this, dim, start ?? null, end ?? null, step);
  }
  chunk(n: number, dim = 0): Tensor[] {
    return many(A.chunk, this, n, dim);
  }
  split(sizes: Dims, dim = 0): Tensor[] {
    return typeof sizes === "number"
      ? many(A["split.Tensor"], this, sizes, dim)
      : many(A.split_with_sizes, this, sizes, dim);
  }
  unbind(dim = 0): Tensor[] {
    return many(A["unbind.int"], this, dim);
  }
  movedim(from: Dims, to: Dims): Tensor {
    return one(A["movedim.intlist"], this, from, to);
  }
  diagonal(offset = 0, dim1 = 0, dim2 = 1): Tensor {
    return one(A.diagonal, this, offset, dim1, dim2);
  }
  indexSelect(dim: number, index: Tensor): Tensor {
    return one(A.index_select, this, dim, index);
  }
  /** Advanced indexing: one index tensor per leading axis, null takes the whole axis. */
  index(indices: readonly (Tensor | null)[]): Tensor {
    return one(A["index.Tensor"], this, indices);
  }
  gather(dim: number, index: Tensor): Tensor {
    return one(A.gather, this, dim, index);
  }
  scatter(dim: number, index: Tensor, source: Tensor | number): Tensor {
    return one(typeof source === "number" ? A["scatter.value"] : A["scatter.src"], this, dim, index, source);
  }
  scatterAdd(dim: number, index: Tensor, source: Tensor): Tensor {
    return one(A.scatter_add, this, dim, index, source);
  }
  indexAdd(dim: number, index: Tensor, source: Tensor): Tensor {
    return one(A.index_add, this, dim, index, source);
  }
  flip(dims: Dims): Tensor {
    return one(A.flip, this, dims);
  }
  roll(shifts: Dims, dims: Dims): Tensor {
    return one(A.roll, this, shifts, dims);
  }
  triu(diagonal = 0): Tensor {
    return one(A.triu, this, diagonal);
  }
  tril(diagonal = 0): Tensor {
    return one(A.tril, this, diagonal);
  }

  // reductions; without `dim`, over all elements
  sum(dim?: Dims, keepdim = false): Tensor {
    return dim === undefined ? one(A.sum, this) : one(A["sum.dim_IntList"], this, dim, keepdim);
  }
  mean(dim?: Dims, keepdim = false): Tensor {
    return dim === undefined ? one(A.mean, this) : one(A["mean.dim"], this, dim, keepdim);
  }
  /** Bessel's correction as in PyTorch; `correction` 0 for the population's. */
  std(dim?: Dims, keepdim = false, correction = 1): Tensor {
    return one(A["std.correction"], this, dim, correction, keepdim);
  }
  var(dim?: Dims, keepdim = false, correction = 1): Tensor {
    return one(A["var.correction"], this, dim, correction, keepdim);
  }
  prod(dim?: number, keepdim = false): Tensor {
    return dim === undefined ? one(A.prod, this) : one(A["prod.dim_int"], this, dim, keepdim);
  }
  amax(dim: Dims = [], keepdim = false): Tensor {
    return one(A.amax, this, dim, keepdim);
  }
  amin(dim: Dims = [], keepdim = false): Tensor {
    return one(A.amin, this, dim, keepdim);
  }
  argmax(dim?: number, keepdim = false): Tensor {
    return one(A.argmax, this, dim, keepdim);
  }
  argmin(dim?: number, keepdim = false): Tensor {
    return one(A.argmin, this, dim, keepdim);
  }
  /** The maximum of all elements; see amax for axes. */
  max(): Tensor {
    return one(A.max, this);
  }
  /** The minimum of all elements; see amin for axes. */
  min(): Tensor {
    return one(A.min, this);
  }
  any(dim?: number, keepdim = false): Tensor {
    return dim === undefined ? one(A.any, this) : one(A["any.dim"], this, dim, keepdim);
  }
  all(dim?: number, keepdim = false): Tensor {
    return dim === undefined ? one(A.all, this) : one(A["all.dim"], this, dim, keepdim);
  }
  norm(ord = 2, dim?: Dims, keepdim = false): Tensor {
    return one(A.linalg_vector_norm, this, ord, dim, keepdim);
  }
  cumsum(dim: number): Tensor {
    return one(A.cumsum, this, dim);
  }
  logsumexp(dim: Dims, keepdim = false): Tensor {
    return one(A.logsumexp, this, dim, keepdim);
  }
  softmax(dim: number, dtype?: DType): Tensor {
    return one(A["softmax.int"], this, dim, dtype);
  }
  logSoftmax(dim: number, dtype?: DType): Tensor {
    return one(A["log_softmax.int"], this, dim, dtype);
  }
  /** [values, indices] */
  sort(dim = -1, descending = false): [Tensor, Tensor] {
    return many(A.sort, this, dim, descending) as [Tensor, Tensor];
  }
  argsort(dim = -1, descending = false): Tensor {
    return one(A.argsort, this, dim, descending);
  }
  /** [values, indices] */
  topk(k: number, dim = -1, largest = true): [Tensor, Tensor] {
    return many(A.topk, this, k, dim, largest) as [Tensor, Tensor];
  }
  nonzero(): Tensor {
    return one(A.nonzero, this);
  }
}
