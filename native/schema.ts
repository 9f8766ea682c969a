// Operator schemas: looked up once, when first called.
import { addon } from "./addon.ts";
import { EngineError } from "./errors.ts";

/** One operator of libtorch (or of `waver::`). Kinds per argument: T tensor, L list of tensors, G generator, "." else. */
export class Schema {
  readonly name: string;
  id = -1;
  args = "";
  names: string[] = [];
  returns = "";
  /** Per return: the argument it is (in-place and out= forms), or -1. */
  alias: number[] = [];
  /** Returns tensors and nothing else. */
  givesTensors = false;
  readonly #base: string;
  readonly #overload: string;

  constructor(base: string, overload: string) {
    this.#base = base;
    this.#overload = overload;
    this.name = overload ? `${base}.${overload}` : base;
  }

  resolve(): void {
    const found = addon().findOp(this.#base, this.#overload);
    if (!found) throw new EngineError("op_unknown", `this libtorch has no operator ${this.name}`);
    this.args = found.args;
    this.names = found.names;
    this.returns = found.returns;
    this.alias = found.alias;
    this.givesTensors = /^T+$/.test(found.returns);
    this.id = found.id;
  }
}

const known = new Map<string, Schema>();

/** The operator `name` ("aten::add"), overload `overload` ("Tensor"); the lookup happens at its first call. */
export function schema(name: string, overload = ""): Schema {
  const key = `${name}.${overload}`;
  let s = known.get(key);
  if (!s) {
    s = new Schema(name, overload);
    known.set(key, s);
  }
  return s;
}

/** A table of `aten::` operators by "name" or "name.overload". */
export function table<const N extends string>(...names: readonly N[]): Record<N, Schema> {
  const t: Partial<Record<N, Schema>> = {};
  for (const full of names) {
    const dot = full.indexOf(".");
    t[full] = dot < 0 ? schema(`aten::${full}`) : schema(`aten::${full.slice(0, dot)}`, full.slice(dot + 1));
  }
  return t as Record<N, Schema>;
}
