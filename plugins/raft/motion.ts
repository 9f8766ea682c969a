/**
 * frames [N H W 3] -> motion in per cent of the frame's width a second, means over the clip, by the measures and in the units
 * of `score-motion`, of which this is the dense and learned form:
 * - total        of all places
 * - camera       of the affine motion (pan, zoom, roll) that most places share
 * - foreground   of the places that leave that motion, relative to it
 * - background   of the others, relative to it: what the model leaves over
 * - foregroundShare   share of places that leave it, 0..1
 * - diversity    of the foreground's directions, 0 (all one way) to 1 (every way)
 *
 * Axes: P pairs of frames, N places, on the device throughout.
 */
import { inferenceMode, linspace, ones, op, packedImages, scope, stack, type Tensor } from "../../native/index.ts";
import { type Context, type FrameBatch, type Scores, WaverError } from "../index.ts";
import type { Raft } from "./model.ts";

/** Flow is refined at every eighth pixel: closer sampling than this says nothing new. */
const EVERY = 4;
/** Share of the width by which a place must leave the camera's motion: below that flow is noise (as in score-motion, 0.5 of 128). */
const LEAST = 0.5 / 128;
/** Reweighting has settled long before (as in score-motion). */
const ROUNDS = 8;
/** Pixels: RAFT scatters by about this much on still pictures, so agreement cannot be judged more finely. */
const NOISE = 0.15;
/** Lengths below this have no direction. */
const TINY = 1e-6;

const solve = op("aten::linalg_solve");

export async function measureFlow(
  model: Raft,
  frames: AsyncIterable<FrameBatch>,
  { numUpdates }: { readonly numUpdates: number },
  ctx: Pick<Context, "device" | "breathe">,
): Promise<Scores> {
  const pairs: Pair[] = [];
  let last: FrameBatch | undefined;
  for await (const batch of frames) {
    if (batch.format !== "rgb24")
      throw new WaverError("shape_mismatch", `RAFT reads rgb24 frames, not ${batch.format}`);
    const chain = last === undefined ? batch : joined(last, batch);
    if (chain.count > 1)
      pairs.push(...inferenceMode(() => scope(() => pairsOf(flowsOf(model, chain, numUpdates, ctx.device), chain))));
    last = lastOf(batch);
    await ctx.breathe();
  }
  if (last === undefined) throw new WaverError("media_too_short", "a clip without frames cannot be scored");
  return summary(pairs);
}

/** Pixels from 0..255 to [-1, 1], as torchvision's weights were trained, and flow from each frame to the next [P 2 H W]. */
function flowsOf(model: Raft, chain: FrameBatch, numUpdates: number, device: string): Tensor {
  const images = packedImages(chain).to({ device }).to("float32").div(127.5).sub(1);
  const P = chain.count - 1;
  return model.between(images.narrow(0, 0, P), images.narrow(0, 1, P), { numUpdates });
}

/** One pair of frames: means over its places; lengths in shares of the width a second. */
interface Pair {
  readonly total: number;
  readonly camera: number;
  readonly foreground: number;
  readonly background: number;
  readonly share: number;
  /** Sum of unit directions of the places that leave the camera's motion, and their number. */
  readonly east: number;
  readonly south: number;
  readonly leaving: number;
}

function pairsOf(flows: Tensor, { times }: FrameBatch): Pair[] {
  const [P, , H, W] = flows.shape as [number, number, number, number];
  const places = flows.slice(2, EVERY >> 1, H, EVERY).slice(3, EVERY >> 1, W, EVERY);
  const [h, w] = [places.size(2), places.size(3)];
  const flow = places.flatten(2).transpose(1, 2).to("float64"); // [P N 2]
  const shared = cameraOf(flow, h, w);
  const own = flow.sub(shared);
  const distance = length(own); // [P N]
  const spread = median(distance).mul(1.4826).clamp(NOISE);
  const leaves = distance.gt(spread.mul(3).clamp(LEAST * W)).to("float64");
  const stays = leaves.rsub(1);
  const directions = own.div(distance.clamp(TINY).unsqueeze(-1)).mul(leaves.unsqueeze(-1)).sum(1); // [P 2]
  const count = leaves.sum(1);
  const meanOver = (chosen: Tensor): Tensor => distance.mul(chosen).sum(1).div(chosen.sum(1).clamp(1));
  const rows = stack(
    [
      length(flow).mean(1),
      length(shared).mean(1),
      meanOver(leaves),
      meanOver(stays),
      count.div(flow.size(1)),
      ...directions.unbind(1),
      count,
    ],
    1,
  ).toNumbers();
  return Array.from({ length: P }, (_, p) => {
    const [total, camera, foreground, background, share, east, south, leaving] = rows.slice(8 * p, 8 * p + 8) as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const unit = 1 / W / ((times[p + 1] as number) - (times[p] as number));
    return {
      total: total * unit,
      camera: camera * unit,
      foreground: foreground * unit,
      background: background * unit,
      share,
      east,
      south,
      leaving,
    };
  });
}

/** The affine motion that most places share, at every place: flow [P h*w 2] -> [P h*w 2], by reweighted least squares. */
export function cameraOf(flow: Tensor, h: number, w: number): Tensor {
  const { device } = flow;
  const how = { dtype: "float64", device } as const;
  const x = linspace(-1, 1, w, how).view([1, w]).expand([h, w]).flatten();
  const y = linspace(-1, 1, h, how).view([h, 1]).expand([h, w]).flatten();
  const basis = stack([ones([h * w], how), x, y], 1).unsqueeze(0); // [1 N 3]
  return scope(() => {
    let weights = ones([flow.size(0), h * w], how);
    let camera = flow;
    for (let round = 0; round < ROUNDS; round++) {
      const weighted = basis.mul(weights.unsqueeze(-1)).transpose(1, 2); // [P 3 N]
      camera = basis.matmul(solve(weighted.matmul(basis), weighted.matmul(flow), true));
      const distance = length(flow.sub(camera));
      const spread = median(distance).mul(1.4826).clamp(NOISE);
      // Cauchy's: half at twice the spread
      weights = distance.div(spread.mul(2)).square().add(1).reciprocal();
    }
    return camera;
  });
}

/** [.. 2] -> [..] */
const length = (vectors: Tensor): Tensor => vectors.norm(2, -1);
/** [P N] -> [P 1], the lower of two in the middle */
const median = (values: Tensor): Tensor => values.sort(-1)[0].narrow(-1, (values.size(-1) - 1) >> 1, 1);

function summary(pairs: readonly Pair[]): Scores {
  const mean = (value: (pair: Pair) => number): number =>
    pairs.length === 0 ? 0 : pairs.reduce((sum, pair) => sum + value(pair), 0) / pairs.length;
  const sum = (value: (pair: Pair) => number): number => pairs.reduce((all, pair) => all + value(pair), 0);
  const leaving = sum((pair) => pair.leaving);
  return {
    total: 100 * mean((pair) => pair.total),
    camera: 100 * mean((pair) => pair.camera),
    foreground: 100 * mean((pair) => pair.foreground),
    background: 100 * mean((pair) => pair.background),
    foregroundShare: mean((pair) => pair.share),
    diversity:
      leaving === 0
        ? 0
        : 1 -
          Math.hypot(
            sum((pair) => pair.east),
            sum((pair) => pair.south),
          ) /
            leaving,
  };
}

function lastOf(batch: FrameBatch): FrameBatch {
  const size = batch.width * batch.height * 3;
  const from = (batch.count - 1) * size;
  return { ...batch, data: batch.data.slice(from, from + size), count: 1, times: [batch.times.at(-1) as number] };
}

function joined(first: FrameBatch, rest: FrameBatch): FrameBatch {
  const data = new Uint8Array(first.data.length + rest.data.length);
  data.set(first.data);
  data.set(rest.data, first.data.length);
  return { ...rest, data, count: first.count + rest.count, times: [...first.times, ...rest.times] };
}
