// What a tensor is before any arithmetic: a handle, its metadata, its gradient, its bytes.
import { addon } from "./addon.ts";
import type { Derived } from "./derived.ts";
import { type DType, dtypeName, itemSize, readArray, type TypedArray } from "./dtype.ts";
import { EngineError } from "./errors.ts";
import { adopt, forgetNet, free, type Owner } from "./scope.ts";
import { meantBy } from "./standin.ts";
import type { Tensor } from "./tensor.ts";

const MAX_DIMS = 64; // c10's own limit of a TensorIterator
const meta = new Float64Array(6 + MAX_DIMS); // see Meta in src/tensor.cc
const DEVICES: Record<number, string> = { 0: "cpu", 1: "cuda", 14: "meta" }; // c10::DeviceType

export abstract class TensorCore implements Disposable {
  /** @internal Slot and generation in the native table; 0 when disposed. */
  handle: number;
  /** @internal The scope that frees it; null: the caller. */
  owner: Owner | null = null;
  /** @internal Registered with the finaliser. */
  netted = false;
  /** @internal See derived.ts; freed with this tensor. */
  derived: Map<object, Derived> | null = null;
  #shape: readonly number[] | null = null;
  #dtype: DType | null = null;
  #device: string | null = null;
  #grad: Tensor | null = null;

  /** @internal Tensors come from operators; the constructor only wraps a handle. */
  constructor(handle: number, adopted = true) {
    this.handle = handle;
    if (handle !== 0) {
      if (adopted) adopt(this);
      else free(this);
    }
  }

  /** @internal What to say when a tensor without a handle is used. */
  deadError(): EngineError {
    return new EngineError("tensor_stale", "a tensor that was already disposed was used");
  }
  /** @internal Forgets what was read about shape, dtype and device. */
  forgetMeta(): void {
    this.#shape = this.#dtype = this.#device = null;
  }
  /** @internal */
  abstract converted(dtype: DType): TensorCore;
  protected abstract wrapUnowned(handle: number): Tensor;
  /** @internal */
  live(): number {
    if (this.handle === 0) throw this.deadError();
    return this.handle;
  }
  #read(): void {
    addon().meta(this.live(), meta);
    const shape: number[] = [];
    for (let i = 0; i < (meta[0] as number); i++) shape.push(meta[6 + i] as number);
    this.#shape = Object.freeze(shape);
    this.#dtype = dtypeName(meta[1] as number);
    const kind = DEVICES[meta[2] as number] ?? `device${meta[2]}`;
    this.#device = (meta[3] as number) < 0 || kind === "cpu" ? kind : `${kind}:${meta[3]}`;
  }

  get shape(): readonly number[] {
    if (this.#shape === null) this.#read();
    return this.#shape as readonly number[];
  }
  get dtype(): DType {
    if (this.#dtype === null) this.#read();
    return this.#dtype as DType;
  }
  get device(): string {
    if (this.#device === null) this.#read();
    return this.#device as string;
  }
  get ndim(): number {
    return this.shape.length;
  }
  get numel(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }
  get strides(): number[] {
    return addon().strides(this.live());
  }
  get isContiguous(): boolean {
    addon().meta(this.live(), meta);
    return meta[4] === 1;
  }
  get disposed(): boolean {
    return this.handle === 0;
  }
  /** Size along one axis; a negative one counts from the end. */
  size(dim: number): number {
    const n = this.shape.at(dim);
    if (n === undefined) throw new EngineError("tensor_shape", `size(${dim}) of a tensor of shape [${this.shape}]`);
    return n;
  }

  /** @internal Handle and version: another tensor in its place changes the first, an operator in place the second; -1: uncounted. */
  get stamp(): readonly [handle: number, version: number] {
    const handle = this.live();
    return [handle, addon().version(handle)];
  }

  get requiresGrad(): boolean {
    return addon().requiresGrad(this.live());
  }
  requiresGrad_(on = true): this {
    addon().setRequiresGrad(this.live(), on);
    return this;
  }
  get isLeaf(): boolean {
    return addon().isLeaf(this.live());
  }
  /** The gradient, owned by this tensor: it is freed with it and by zeroGrad(). */
  get grad(): Tensor | null {
    const known = this.#grad?.handle ?? 0;
    const h = addon().grad(this.live(), known);
    if (h !== known || h === 0) {
      this.#grad?.dispose();
      this.#grad = h === 0 ? null : this.wrapUnowned(h);
    }
    return this.#grad;
  }
  set grad(g: Tensor | null) {
    addon().setGrad(this.live(), g === null ? 0 : g.live());
  }
  zeroGrad(): void {
    if (this.handle === 0) return;
    addon().setGrad(this.handle, 0);
    this.#grad?.dispose();
    this.#grad = null;
  }
  /** @internal The gradient stays with libtorch's tensor, its wrapper goes. */
  zeroGradWrapper(): void {
    const g = this.dropGrad();
    if (g !== 0) addon().free(g);
  }
  /** @internal */
  dropDerived(): void {
    if (this.derived === null) return;
    for (const { tensors } of this.derived.values()) for (const each of tensors) each.dispose();
    this.derived = null;
  }
  /** @internal Lets go of the gradient's wrapper and returns its handle, to be freed with this tensor's. */
  dropGrad(): number {
    const g = this.#grad;
    if (g === null) return 0;
    this.#grad = null;
    forgetNet(g);
    const h = g.handle;
    g.handle = 0;
    return h;
  }
  backward(gradient?: Tensor, { retainGraph = false, createGraph = false } = {}): void {
    addon().backward([this.live()], gradient ? [gradient.live()] : [], retainGraph, createGraph, []);
  }

  /** Frees the handle; using the tensor afterwards is an error. Disposing twice is fine. */
  dispose(): void {
    if (this.handle === 0) return;
    forgetNet(this);
    this.zeroGradWrapper();
    this.dropDerived();
    addon().free(this.handle);
    this.handle = 0;
    this.owner = null;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }

  item(): number {
    // in an outline every number is 1: a mask is all true, a flag is set
    if (this.device === "meta" && meantBy("meta") !== "meta") return 1;
    return addon().item(this.live());
  }
  /** The elements row-major, in the typed array of the dtype; float16 and bfloat16 widen to float32, bool is 0 / 1. */
  toArray(): TypedArray {
    return readArray(this, this.dtype);
  }
  toFloat32Array(): Float32Array {
    return readArray(this, "float32") as Float32Array;
  }
  toNumbers(): number[] {
    return Array.from(this.toArray(), Number);
  }
  /** The elements' bytes, row-major, as a copy. */
  bytes(): Uint8Array {
    addon().meta(this.live(), meta);
    const out = new Uint8Array(this.numel * itemSize(this.dtype));
    addon().read(this.handle, out);
    return out;
  }
  toString(): string {
    return this.handle === 0 ? "Tensor(disposed)" : `Tensor(${this.dtype}[${this.shape}] ${this.device})`;
  }
}
