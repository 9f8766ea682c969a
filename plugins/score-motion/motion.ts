/**
 * frames [N H W] grey -> motion in per cent of the frame's width a second, means over the clip:
 * - total        of all patches that could be followed
 * - camera       of the motion that most patches share (pan, zoom, roll)
 * - foreground   of the patches that leave that motion, relative to it
 * - background   of the others, relative to it: what the model leaves over
 * - foregroundShare   share of patches that leave it, 0..1
 * - diversity    of the foreground's directions, 0 (all one way) to 1 (every way)
 *
 * Waver 3.1 segments the foreground by a network; here it is what moves against the camera.
 */
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import type { FrameBatch, Scores } from "../types.ts";
import { at, type Camera, cameraOf, distance, type Point, sure } from "./camera.ts";
import { flowBetween, type Plane, pyramid } from "./flow.ts";

/** Pixels of the view by which a patch must leave the camera's motion: below that flow is noise. */
const LEAST = 0.5;

interface Sums {
  total: number;
  camera: number;
  foreground: number;
  background: number;
  share: number;
  pairs: number;
  /** Pairs in which something moved by itself. */
  moving: number;
  /** Sum of unit directions and their number, for the diversity. */
  east: number;
  south: number;
  directions: number;
}

export async function measureMotion(frames: AsyncIterable<FrameBatch>, ctx: Pick<Context, "breathe">): Promise<Scores> {
  const sums: Sums = {
    total: 0,
    camera: 0,
    foreground: 0,
    background: 0,
    share: 0,
    pairs: 0,
    moving: 0,
    east: 0,
    south: 0,
    directions: 0,
  };
  let before: Plane[] | null = null;
  let width = 1;
  let first = Number.NaN;
  let interval = 1;
  for await (const batch of frames) {
    if (batch.format !== "gray8")
      throw new WaverError("shape_mismatch", `motion is measured on gray8 frames, not ${batch.format}`);
    width = batch.width;
    const size = batch.width * batch.height;
    for (let f = 0; f < batch.count; f++) {
      const now = pyramid({
        width: batch.width,
        height: batch.height,
        data: Float32Array.from(batch.data.subarray(f * size, (f + 1) * size)),
      });
      const time = batch.times[f] as number;
      if (before !== null) {
        if (Number.isFinite(first)) interval = time - first;
        add(before, now, sums);
      }
      first = time;
      before = now;
    }
    await ctx.breathe();
  }
  if (before === null) throw new WaverError("media_too_short", "a clip without frames cannot be scored");
  const { pairs, moving, directions } = sums;
  const speed = pairs === 0 ? 0 : 100 / width / interval / pairs;
  return {
    total: sums.total * speed,
    camera: sums.camera * speed,
    foreground: sums.foreground * speed,
    background: sums.background * speed,
    foregroundShare: pairs === 0 ? 0 : sums.share / pairs,
    diversity: moving === 0 || directions === 0 ? 0 : 1 - Math.hypot(sums.east, sums.south) / directions,
  };
}

function add(before: readonly Plane[], now: readonly Plane[], sums: Sums): void {
  const flow = flowBetween(before, now);
  const camera = cameraOf(flow);
  const points = sure(flow);
  sums.pairs++;
  if (points.length === 0) return;
  const limit = Math.max(LEAST, 3 * camera.spread);
  const leaves = points.filter((point) => distance(camera, point) > limit);
  const stays = points.filter((point) => distance(camera, point) <= limit);
  sums.total += mean(points, (p) => Math.hypot(p.u, p.v));
  sums.camera += mean(points, (p) => shared(camera, p));
  sums.background += mean(stays, (p) => distance(camera, p));
  sums.share += leaves.length / points.length;
  if (leaves.length === 0) return;
  sums.moving++;
  sums.foreground += mean(leaves, (p) => distance(camera, p));
  for (const point of leaves) {
    const { u, v } = at(camera, point);
    const length = distance(camera, point);
    sums.east += (point.u - u) / length;
    sums.south += (point.v - v) / length;
    sums.directions++;
  }
}

const shared = (camera: Camera, point: Point): number => {
  const { u, v } = at(camera, point);
  return Math.hypot(u, v);
};

const mean = (points: readonly Point[], value: (p: Point) => number): number =>
  points.length === 0 ? 0 : points.reduce((sum, p) => sum + value(p), 0) / points.length;
