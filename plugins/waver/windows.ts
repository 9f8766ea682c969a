/**
 * Which video tokens see each other in the refiner (Waver 2.2, Window Attention).
 *
 * "We alternate between spatial (2x2x1 window) and temporal (1x1x2 window) attention", full attention in the first and
 * last eight of 56 layers. Tokens are numbered in (t, h, w) row-major order, windows likewise.
 */
import type { Grid, WaverParams, WindowParams } from "./params.ts";

export type LayerKind = "full" | "spatial" | "temporal";

/** Layers are counted through, dual-stream first; ceil(L / 7) full ones at each end are eight of 56. */
export function layerKinds(p: Pick<WaverParams, "num_dual" | "num_single" | "window">): LayerKind[] {
  const numLayers = p.num_dual + p.num_single;
  if (p.window === null) return new Array<LayerKind>(numLayers).fill("full");
  const ends = Math.ceil(numLayers / 7);
  return Array.from({ length: numLayers }, (_, layer) => {
    if (layer < ends || layer >= numLayers - ends) return "full";
    return (layer - ends) % 2 === 0 ? "spatial" : "temporal";
  });
}

/** Windows of equal length, so that one attention call serves them all. */
export interface WindowGroup {
  readonly numWindows: number;
  /** Video tokens in each window. */
  readonly length: number;
  /** Token numbers, window after window. */
  readonly tokens: Int32Array;
}

/** Window number of every token; the last window of an axis may be shorter. */
export function windowIds(grid: Grid, window: WindowParams, kind: "spatial" | "temporal"): Int32Array {
  const [nh, nw, nt] = window[kind];
  // count: n windows of ceil(length / n); size: windows of n.
  const step = (length: number, n: number): number => (window.kind === "count" ? Math.ceil(length / n) : n);
  const [dt, dh, dw] = [step(grid.t, nt), step(grid.h, nh), step(grid.w, nw)];
  const [rows, columns] = [Math.ceil(grid.h / dh), Math.ceil(grid.w / dw)];
  const ids = new Int32Array(grid.t * grid.h * grid.w);
  let token = 0;
  for (let t = 0; t < grid.t; t++)
    for (let h = 0; h < grid.h; h++)
      for (let w = 0; w < grid.w; w++)
        ids[token++] = (Math.floor(t / dt) * rows + Math.floor(h / dh)) * columns + Math.floor(w / dw);
  return ids;
}

/** The tokens of every window, gathered by window length (at most eight lengths occur). */
export function gridWindows(grid: Grid, window: WindowParams, kind: "spatial" | "temporal"): WindowGroup[] {
  const members = new Map<number, number[]>();
  windowIds(grid, window, kind).forEach((id, token) => {
    const list = members.get(id);
    if (list === undefined) members.set(id, [token]);
    else list.push(token);
  });
  const byLength = Map.groupBy(members.values(), (tokens) => tokens.length);
  return [...byLength].map(([length, windows]) => ({
    numWindows: windows.length,
    length,
    tokens: Int32Array.from(windows.flat()),
  }));
}

/** Video-to-video pairs of one windowed layer. */
export const pairsOf = (groups: readonly WindowGroup[]): number =>
  groups.reduce((sum, g) => sum + g.numWindows * g.length ** 2, 0);
