// A weight: declared with a shape at once, allocated when it is loaded or initialised.
import { addon } from "../addon.ts";
import { type DType, itemSize } from "../dtype.ts";
import { EngineError } from "../errors.ts";
import { forgetNet, free } from "../scope.ts";
import { Tensor } from "../tensor.ts";
import type { Init } from "./init.ts";

let made = 0;

export class Parameter extends Tensor {
  readonly declaredShape: readonly number[];
  readonly #number: number;
  readonly init: Init;
  /** A buffer is saved and loaded with the weights but never trained. */
  readonly isBuffer: boolean;
  /** Its name in the module that was asked last; for messages. */
  label = "";
  #trainable = false;
  #materialised = false;
  /** What it is whether it is here or not. */
  #kind: { readonly dtype: DType; readonly device: string } | null = null;

  constructor(shape: readonly number[], init: Init, isBuffer = false) {
    super(0);
    this.#number = ++made;
    this.declaredShape = Object.freeze([...shape]);
    this.init = init;
    this.isBuffer = isBuffer;
  }

  get materialised(): boolean {
    return this.handle !== 0;
  }
  override get shape(): readonly number[] {
    return this.declaredShape;
  }
  override get dtype(): DType {
    return this.#kind?.dtype ?? super.dtype;
  }
  override get device(): string {
    return this.#kind?.device ?? super.device;
  }
  override get stamp(): readonly [number, number] {
    return this.#kind === null ? super.stamp : [-this.#number, 0];
  }
  override deadError(): EngineError {
    if (this.#kind !== null)
      return new EngineError(
        "weights_not_loaded",
        `${this.label || "a weight"} is here only while its block runs`,
        "load the network without offload",
      );
    if (this.#materialised) return super.deadError();
    const name = this.label ? ` of ${this.label}` : "";
    return new EngineError("weights_not_loaded", `weights${name} not loaded: call load() or init()`);
  }

  /** From now on it comes and goes, always with the same numbers: what it is is known while it is not here. */
  comesAndGoes(kind: { readonly dtype: DType; readonly device: string }): void {
    this.#kind = kind;
  }

  /** Takes the tensor's place: `t` must have the declared shape and is used up. */
  materialise(t: Tensor): void {
    if (t.shape.length !== this.declaredShape.length || t.shape.some((n, i) => n !== this.declaredShape[i])) {
      throw new EngineError(
        "tensor_shape",
        `${this.label || "parameter"} is [${this.declaredShape}], given [${t.shape}]`,
      );
    }
    const handle = t.live();
    t.zeroGradWrapper();
    t.dropDerived();
    forgetNet(t);
    t.handle = 0;
    t.owner = null;
    this.dispose();
    this.forgetMeta();
    this.handle = handle;
    this.#materialised = true;
    free(this);
    if (this.requiresGrad !== this.#trainable) addon().setRequiresGrad(handle, this.#trainable);
  }

  /** Remembered when the weights come later. Off until asked for. */
  override requiresGrad_(on = true): this {
    this.#trainable = on && !this.isBuffer;
    if (this.handle !== 0) addon().setRequiresGrad(this.handle, this.#trainable);
    return this;
  }
  /** Whether it is to be trained, also before it is loaded. */
  get trainable(): boolean {
    return this.#trainable;
  }
  get declaredNumel(): number {
    return this.declaredShape.reduce((a, b) => a * b, 1);
  }
  bytesAs(dtype: DType): number {
    return this.declaredNumel * itemSize(dtype);
  }
}
