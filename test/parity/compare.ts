/** How far a produced value is from the stored one, as a ratio to the case's own tolerance: 1 is the edge. */
import type { NdArray, Tolerance } from "./golden.ts";

export interface Verdict {
  readonly name: string;
  /** Worst of max|x - ref| / max_abs and rel_l2 / rel_l2; 0 when equal, Infinity when nothing can be compared. */
  readonly ratio: number;
  readonly figure: string;
}

const size = (shape: readonly number[]): number => shape.reduce((product, side) => product * side, 1);
const over = (error: number, limit: number): number => (error === 0 ? 0 : error / limit);

export function compare(name: string, value: NdArray, reference: NdArray, tolerance: Tolerance): Verdict {
  if (value.shape.join() !== reference.shape.join())
    return { name, ratio: Number.POSITIVE_INFINITY, figure: `shape [${value.shape}] instead of [${reference.shape}]` };
  let worst = 0;
  let squares = 0;
  let norm = 0;
  let differing = 0;
  const count = size(reference.shape);
  for (let i = 0; i < count; i++) {
    const ref = reference.data[i] as number;
    const error = Math.abs((value.data[i] as number) - ref);
    if (Number.isNaN(error)) return { name, ratio: Number.POSITIVE_INFINITY, figure: "not a number" };
    if (error > worst) worst = error;
    if (error > 0) differing++;
    squares += error * error;
    norm += ref * ref;
  }
  if (tolerance.exact === true)
    return { name, ratio: differing === 0 ? 0 : Number.POSITIVE_INFINITY, figure: `${differing} of ${count} differ` };
  const relative = squares === 0 ? 0 : Math.sqrt(squares / norm);
  const ratios = [
    ...(tolerance.max_abs === undefined ? [] : [over(worst, tolerance.max_abs)]),
    ...(tolerance.rel_l2 === undefined ? [] : [over(relative, tolerance.rel_l2)]),
  ];
  const figure = `max_abs ${worst.toExponential(1)}, rel_l2 ${relative.toExponential(1)}`;
  return { name, ratio: ratios.length === 0 ? Number.POSITIVE_INFINITY : Math.max(...ratios), figure };
}

/** Plain data beside plain data: equal, or, with `abs`, numbers no further apart than that. */
export function compareJson(name: string, value: unknown, reference: unknown, abs = 0): Verdict {
  let worst = 0;
  let place = "";
  const visit = (a: unknown, b: unknown, path: string): void => {
    let distance: number;
    if (typeof a === "number" && typeof b === "number") distance = over(Math.abs(a - b), abs);
    else if (Array.isArray(a) && Array.isArray(b) && a.length === b.length) {
      for (const [i, item] of b.entries()) visit(a[i], item, `${path}[${i}]`);
      return;
    } else if (isRecord(a) && isRecord(b) && Object.keys(b).every((key) => key in a)) {
      for (const key of Object.keys(b)) visit(a[key], b[key], `${path}.${key}`);
      return;
    } else distance = a === b ? 0 : Number.POSITIVE_INFINITY;
    if (Number.isNaN(distance) || distance > worst) {
      worst = Number.isNaN(distance) ? Number.POSITIVE_INFINITY : distance;
      place = path;
    }
  };
  visit(value, reference, name);
  return { name, ratio: worst, figure: place === "" ? "equal" : `differs at ${place}` };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
