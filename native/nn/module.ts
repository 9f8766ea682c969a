// A network part: parameters found by walking its properties, named as PyTorch names them.
import { noGrad } from "../autograd.ts";
import type { DType } from "../dtype.ts";
import { EngineError } from "../errors.ts";
import type { Generator } from "../generator.ts";
import { empty } from "../ops.ts";
import { scope } from "../scope.ts";
import type { Device, Tensor } from "../tensor.ts";
import { blockKeeper, setBlockPolicy } from "./blocks.ts";
import { type Init, zerosInit } from "./init.ts";
import { checkOffload, Offload } from "./offload.ts";
import { Parameter } from "./parameter.ts";
import { type Quantisable, toQuantise, type WeightForm } from "./quantised.ts";

/** Where weights come from: an open checkpoint, or anything with keys and tensors. */
export interface WeightSource {
  readonly keys: Iterable<string>;
  /** The tensor is the caller's (or its scope's). */
  get(key: string): Tensor;
  /** The tensors are nobody else's, so weights may take their memory over; otherwise they are copied. */
  readonly exclusive?: boolean;
  /** Lets shapes be checked before anything is read. */
  info?(key: string): { shape: readonly number[]; dtype?: DType };
  /** Its tensor will be asked for soon: where it is slow to come, it may come meanwhile. */
  prefetch?(key: string): void;
  /** What `get` gave was freed, and will be asked for again. */
  release?(key: string): void;
}

export interface LoadOptions {
  /** Per weight or for all; default: as stored. */
  dtype?: DType | ((name: string) => DType);
  device?: Device;
  /** What most weights of the blocks are kept in, for inference; see `quantisable`. As the others when absent. */
  weights?: WeightForm | undefined;
  /** Keys of the source that no parameter asked for are an error (default). */
  strict?: boolean;
  /** Our name to the source's key. */
  rename?: (name: string) => string;
  /** Weights of the blocks (`offloadable`) are on the device around their turns only; the source stays open while the module lives. */
  offload?: boolean;
}

const LISTED = 8; // keys named in one message

function list(what: string, lines: readonly string[]): string[] {
  if (lines.length === 0) return [];
  const more = lines.length > LISTED ? `, and ${lines.length - LISTED} more` : "";
  return [`${what} (${lines.length}): ${lines.slice(0, LISTED).join(", ")}${more}`];
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

export class Module implements Disposable {
  training = false;
  #offload: Offload | null = null;
  /** What its blocks come from. */
  #source: Disposable | null = null;

  /** Declares a weight; nothing is allocated. */
  protected parameter(shape: readonly number[], init: Init = zerosInit): Parameter {
    return new Parameter(shape, init);
  }
  /** Declares a tensor that is saved with the weights but not trained. */
  protected buffer(shape: readonly number[], init: Init = zerosInit): Parameter {
    return new Parameter(shape, init, true);
  }

  /** Weights in declaration order; one that is shared is named once. */
  *namedParameters(prefix = ""): Iterable<[string, Parameter]> {
    for (const [name, p] of this.namedWeights(prefix)) if (!p.isBuffer) yield [name, p];
  }
  *namedBuffers(prefix = ""): Iterable<[string, Parameter]> {
    for (const [name, p] of this.namedWeights(prefix)) if (p.isBuffer) yield [name, p];
  }
  /** Parameters and buffers: what a checkpoint holds. */
  *namedWeights(prefix = ""): Iterable<[string, Parameter]> {
    yield* walk(this, prefix, new Set());
  }
  /** This module and all below it, by name. */
  *namedModules(prefix = ""): Iterable<[string, Module]> {
    yield* walkModules(this, prefix, new Set());
  }
  parameters(): Parameter[] {
    return Array.from(this.namedParameters(), ([, p]) => p);
  }

  /** From the declarations alone. */
  numParameters(): number {
    return this.parameters().reduce((sum, p) => sum + p.declaredNumel, 0);
  }
  /** Memory of parameters and buffers in one dtype, from the declarations alone. */
  bytes(dtype: DType): number {
    let sum = 0;
    for (const [, p] of this.namedWeights()) sum += p.bytesAs(dtype);
    return sum;
  }

  /** Fresh weights, drawn in float32 on the CPU in declaration order, then converted. */
  init(
    generator: Generator,
    { dtype = "float32", device, weights }: { dtype?: DType; device?: Device; weights?: WeightForm | undefined } = {},
  ): this {
    const put = this.#putting(weights, device);
    noGrad(() => {
      for (const [name, p] of [...this.namedWeights()]) {
        p.label = name;
        scope(() => {
          if (device === "meta") return put(p, empty(p.declaredShape, { dtype, device }), dtype); // nothing is drawn
          const t = empty(p.declaredShape);
          p.init(t, generator);
          put(p, t, dtype);
        });
      }
    });
    return this;
  }

  /** Makes a tensor a weight: in 8 bits where that is asked for, else in a dtype, on a device. */
  #putting(form: WeightForm | undefined, device: Device | undefined) {
    const inEight: ReadonlyMap<Parameter, Quantisable> = form === undefined ? new Map() : toQuantise(this, form);
    return (p: Parameter, t: Tensor, dtype: DType | undefined, copy = false): void => {
      const layer = inEight.get(p);
      if (layer === undefined) p.materialise(t.to({ dtype, device, copy }));
      else layer.quantise(t, form as WeightForm, { dtype: dtype ?? t.dtype, device });
    };
  }

  /** Weights from a checkpoint; every missing and unexpected key and every wrong shape is named in one error. */
  load(
    source: WeightSource,
    { dtype, device, weights, strict = true, rename = (name) => name, offload = false }: LoadOptions = {},
  ): this {
    if (offload) checkOffload(this, blockKeeper() !== null);
    if (offload && weights !== undefined)
      throw new EngineError(
        "not_quantisable",
        `weights that come and go by block are read as they are stored, not in ${weights}`,
        "use one of the two: offload, or weights in 8 bits",
      );
    const keys = new Set(source.keys);
    const wanted = Array.from(this.namedWeights(), ([name, p]) => ({ name, key: rename(name), p }));
    const used = new Set(wanted.map((w) => w.key));
    const missing = wanted.filter((w) => !keys.has(w.key)).map((w) => w.key);
    const unexpected = strict ? [...keys].filter((k) => !used.has(k)) : [];
    const wrong: string[] = [];
    if (source.info) {
      for (const { key, p } of wanted) {
        if (!keys.has(key)) continue;
        const { shape } = source.info(key);
        if (!sameShape(shape, p.declaredShape))
          wrong.push(`${key} is [${shape}] in the checkpoint, [${p.declaredShape}] here`);
      }
    }
    const problems = [...list("missing", missing), ...list("unexpected", unexpected), ...list("wrong shape", wrong)];
    if (problems.length > 0)
      throw new EngineError("checkpoint_mismatch", `the checkpoint does not fit: ${problems.join("; ")}`);
    const away = offload && device !== "meta" ? this.#offloaded(source, device ?? "cpu") : new Map<Parameter, Module>();
    // of shapes there is nothing to keep
    const lastOf = device === "meta" ? new Map<Parameter, Module>() : this.#blockEnds();
    const put = this.#putting(weights, device);
    noGrad(() => {
      for (const { name, key, p } of wanted) {
        p.label = name;
        const home = away.get(p);
        if (home !== undefined) {
          const target = typeof dtype === "function" ? dtype(name) : dtype;
          this.#offload?.place(home, { parameter: p, key, dtype: target ?? storedAs(source, key) });
          continue;
        }
        scope(() => {
          const t = (device === "meta" ? outlined(source, key) : undefined) ?? source.get(key).detach();
          if (!sameShape(t.shape, p.declaredShape)) {
            throw new EngineError(
              "checkpoint_mismatch",
              `the checkpoint does not fit: ${key} is [${t.shape}] in the checkpoint, [${p.declaredShape}] here`,
            );
          }
          const target = typeof dtype === "function" ? dtype(name) : dtype;
          put(p, t, target, source.exclusive !== true);
        });
        const block = lastOf.get(p);
        if (block !== undefined) blockKeeper()?.loaded(block);
      }
      for (const block of new Set(away.values())) this.#offload?.placed(block);
    });
    return this;
  }

  /** The same from a source that is this module's from now on: closed at once, or with the module where blocks come and go. */
  loadFrom(source: WeightSource & Disposable, options: LoadOptions = {}): this {
    try {
      this.load(source, options);
    } catch (error) {
      this.dispose();
      source[Symbol.dispose]();
      throw error;
    }
    if (this.#offload === null) source[Symbol.dispose]();
    else this.#source = source;
    return this;
  }

  /** Memory of the weights that are loaded. */
  loadedBytes(): number {
    let sum = 0;
    for (const [, p] of this.namedWeights()) if (p.materialised) sum += p.bytesAs(p.dtype);
    return sum;
  }

  /** The weights by name; they stay the module's. */
  stateDict(): Map<string, Tensor> {
    return new Map<string, Tensor>(this.namedWeights());
  }

  /** Whether the parameters are trained; off until asked for. */
  requiresGrad_(on = true): this {
    for (const p of this.parameters()) p.requiresGrad_(on);
    return this;
  }
  zeroGrad(): void {
    for (const p of this.parameters()) p.zeroGrad();
  }
  /** Converts weights that are loaded, in place; their gradients are dropped. */
  to(target: { dtype?: DType; device?: Device }): this {
    noGrad(() => {
      for (const [, p] of this.namedWeights()) {
        if (p.materialised) scope(() => p.materialise(p.detach().to(target)));
      }
    });
    return this;
  }
  train(on = true): this {
    for (const [, m] of this.namedModules()) m.training = on;
    return this;
  }
  eval(): this {
    return this.train(false);
  }

  /** The blocks that this network runs by `throughBlocks` alone: their weights need not be here between their turns. */
  runsBlocks(): readonly Module[] {
    return [];
  }
  /** Those whose weights may come and go, each time by `throughBlocks`. */
  offloadable(): readonly Module[] {
    return this.runsBlocks();
  }
  /** The last weight of every block, where somebody keeps blocks. */
  #blockEnds(): Map<Parameter, Module> {
    if (blockKeeper() === null) return new Map();
    return new Map(this.runsBlocks().map((block) => [[...block.namedWeights()].at(-1)?.[1] as Parameter, block]));
  }

  /** The weights that will come and go, and the block of each. */
  #offloaded(source: WeightSource, device: Device): Map<Parameter, Module> {
    const blocks = this.offloadable();
    this.#offload?.[Symbol.dispose]();
    this.#offload = Offload.of(blocks, source, device);
    setBlockPolicy(blocks, this.#offload);
    return new Map(blocks.flatMap((block) => Array.from(block.namedWeights(), ([, p]) => [p, block] as const)));
  }

  /** Frees the weights. */
  dispose(): void {
    this.#offload?.[Symbol.dispose]();
    this.#offload = null;
    this.#source?.[Symbol.dispose]();
    this.#source = null;
    for (const block of this.runsBlocks()) blockKeeper()?.gone(block);
    for (const [, p] of this.namedWeights()) p.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The shape of a weight without its data. */
function outlined(source: WeightSource, key: string): Tensor | undefined {
  const { shape, dtype } = source.info?.(key) ?? {};
  if (shape === undefined || dtype === undefined) return undefined;
  return empty(shape, { dtype: widened(dtype), device: "meta" });
}

/** Sources widen float8, which no product reads. */
const widened = (dtype: DType): DType => (dtype.startsWith("float8") ? "bfloat16" : dtype);

/** What a source gives a weight as. */
function storedAs(source: WeightSource, key: string): DType {
  const stated = source.info?.(key).dtype;
  return stated === undefined ? scope(() => source.get(key).dtype) : widened(stated);
}

function isRecord(value: object): boolean {
  const proto = Object.getPrototypeOf(value);
  return proto === Object.prototype || proto === null;
}

function* walk(value: unknown, name: string, seen: Set<object>): Iterable<[string, Parameter]> {
  if (typeof value !== "object" || value === null || seen.has(value)) return;
  if (value instanceof Parameter) {
    seen.add(value);
    if (value.label === "") value.label = name;
    yield [name, value];
  } else if (value instanceof Module || Array.isArray(value) || isRecord(value)) {
    seen.add(value);
    for (const [key, child] of Object.entries(value)) yield* walk(child, name ? `${name}.${key}` : key, seen);
  }
}

function* walkModules(value: unknown, name: string, seen: Set<object>): Iterable<[string, Module]> {
  if (typeof value !== "object" || value === null || seen.has(value)) return;
  if (!(value instanceof Module || Array.isArray(value) || isRecord(value))) return;
  seen.add(value);
  if (value instanceof Module) yield [name, value];
  for (const [key, child] of Object.entries(value)) yield* walkModules(child, name ? `${name}.${key}` : key, seen);
}
