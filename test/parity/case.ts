/**
 * What a file in `cases/` says: the golden cases it can reproduce, and how.
 *
 * Outputs and taps go through one door, `produce`, in the order in which they arise: that order is what `--tap` walks
 * to find the first place where two implementations part.
 */
import type { Tensor } from "../../native/index.ts";
import type { Golden, NdArray } from "./golden.ts";

/** A tensor (borrowed: copied before `produce` returns) or plain numbers in the shape of the reference. */
export type Value = Tensor | NdArray;

export interface Produce {
  (name: string, value: Value): void;
  /** A result that is a list, compared with the entry `name` of `expected.json`; `abs` from the case's params. */
  json(name: string, value: unknown, abs?: number): void;
}

export interface ParityCase {
  /** Golden cases by the name in their case.json. */
  readonly cases: readonly string[];
  /** Reproduces the case. A case passes only when every name in its tolerance was produced. */
  run(golden: Golden, produce: Produce): void | Promise<void>;
}

export const defineCase = (definition: ParityCase): ParityCase => definition;
