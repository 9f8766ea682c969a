/**
 * The camera's part of a flow field: the affine motion (pan, zoom, roll) that most patches agree on, found by
 * iteratively reweighted least squares, so that what moves by itself hardly pulls it.
 */
import { centre, type Flow } from "./flow.ts";

export interface Camera {
  /** u = a0 + a1 x + a2 y, v = b0 + b1 x + b2 y, with x and y from -1 to 1 over the patches. */
  readonly a: readonly [number, number, number];
  readonly b: readonly [number, number, number];
  /** Spread (1.4826 median) of the distances to the model, in pixels. */
  readonly spread: number;
}

const ROUNDS = 8;
/** Pixels: flow of still patches scatters by about this much, so agreement cannot be judged more finely. */
const NOISE = 0.15;
/** Six unknowns need three patches; twice that many for each direction make a model that means something. */
const FEWEST = 12;

export const STILL: Camera = { a: [0, 0, 0], b: [0, 0, 0], spread: NOISE };

export function cameraOf(flow: Flow): Camera {
  const points = sure(flow);
  if (points.length < FEWEST) return STILL;
  let camera: Camera = {
    a: [middle(points.map((p) => p.u)), 0, 0],
    b: [middle(points.map((p) => p.v)), 0, 0],
    spread: 1,
  };
  for (let round = 0; round < ROUNDS; round++) {
    const distances = points.map((p) => distance(camera, p));
    const spread = Math.max(NOISE, 1.4826 * middle(distances));
    // Cauchy weights: half at twice the spread.
    const weights = distances.map((d) => 1 / (1 + (d / (2 * spread)) ** 2));
    const a = solve(points, weights, (p) => p.u);
    const b = solve(points, weights, (p) => p.v);
    if (a === null || b === null) return { ...camera, spread };
    camera = { a, b, spread };
  }
  return { ...camera, spread: Math.max(NOISE, 1.4826 * middle(points.map((p) => distance(camera, p)))) };
}

export interface Point {
  readonly x: number;
  readonly y: number;
  readonly u: number;
  readonly v: number;
}

/** Patches that were found again, with places from -1 to 1. */
export function sure(flow: Flow): Point[] {
  const points: Point[] = [];
  const half = (count: number): number => Math.max(1, (centre(count - 1) - centre(0)) / 2);
  for (let r = 0, i = 0; r < flow.rows; r++)
    for (let c = 0; c < flow.columns; c++, i++)
      if (flow.sure[i] === 1)
        points.push({
          x: (centre(c) - centre(0)) / half(flow.columns) - 1,
          y: (centre(r) - centre(0)) / half(flow.rows) - 1,
          u: flow.u[i] as number,
          v: flow.v[i] as number,
        });
  return points;
}

export const at = ({ a, b }: Camera, { x, y }: Point): { u: number; v: number } => ({
  u: a[0] + a[1] * x + a[2] * y,
  v: b[0] + b[1] * x + b[2] * y,
});

export function distance(camera: Camera, point: Point): number {
  const { u, v } = at(camera, point);
  return Math.hypot(point.u - u, point.v - v);
}

/** Weighted normal equations of a plane, by Cramer's rule; null when the patches lie on one line. */
function solve(
  points: readonly Point[],
  weights: readonly number[],
  value: (p: Point) => number,
): [number, number, number] | null {
  let s = 0,
    sx = 0,
    sy = 0,
    sxx = 0,
    sxy = 0,
    syy = 0,
    t = 0,
    tx = 0,
    ty = 0;
  points.forEach((p, i) => {
    const w = weights[i] as number;
    const z = value(p) * w;
    s += w;
    sx += w * p.x;
    sy += w * p.y;
    sxx += w * p.x * p.x;
    sxy += w * p.x * p.y;
    syy += w * p.y * p.y;
    t += z;
    tx += z * p.x;
    ty += z * p.y;
  });
  const det = (m: readonly number[]): number => {
    const [a, b, c, d, e, f, g, h, i] = m as [number, number, number, number, number, number, number, number, number];
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  };
  const whole = det([s, sx, sy, sx, sxx, sxy, sy, sxy, syy]);
  if (Math.abs(whole) < 1e-9 * s ** 3) return null;
  return [
    det([t, sx, sy, tx, sxx, sxy, ty, sxy, syy]) / whole,
    det([s, t, sy, sx, tx, sxy, sy, ty, syy]) / whole,
    det([s, sx, t, sx, sxx, tx, sy, sxy, ty]) / whole,
  ];
}

export function middle(values: readonly number[]): number {
  if (values.length === 0) return 0;
  const sorted = [...values].sort((a, b) => a - b);
  return ((sorted[(sorted.length - 1) >> 1] as number) + (sorted[sorted.length >> 1] as number)) / 2;
}
