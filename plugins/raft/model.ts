/**
 * RAFT (Teed & Deng 2020, arXiv 2003.12039): optical flow by repeated look-ups in the correlations of all pairs of places.
 * Small and large model of torchvision, whose keys name the children.
 *
 * Axes: B pairs of images, H W rows and columns, h w the same at an eighth. Flow is (dx, dy) in pixels.
 */
import { arange, cat, interpolate, Module, pad, scope, stack, type Tensor, unfold } from "../../native/index.ts";
import { WaverError } from "../index.ts";
import { Correlation, Encoder, MaskPredictor, UpdateBlock } from "./layers.ts";
import type { RaftShape } from "./params.ts";

export type Tap = (name: string, value: Tensor) => void;

/** Pixels of a place that flow is refined at. */
const STRIDE = 8;
/** Below this the smallest level of correlations has a single row, and places in it no scale (torchvision's min_size). */
const LEAST = 128;
/** torchvision's default; the authors evaluate with 12 (KITTI 24, Sintel 32). */
const UPDATES = 12;

export interface FlowHow {
  readonly numUpdates?: number;
  /** `feature_encoder`, `context_encoder` and, when `everyFlow`, `flow.K` of each update at full resolution. */
  readonly tap?: Tap;
  readonly everyFlow?: boolean;
}

export class Raft extends Module {
  readonly feature_encoder: Encoder;
  readonly context_encoder: Encoder;
  readonly update_block: UpdateBlock;
  readonly mask_predictor: MaskPredictor | undefined;
  readonly #shape: RaftShape;

  constructor(shape: RaftShape) {
    super();
    this.#shape = shape;
    this.feature_encoder = new Encoder(shape.features);
    this.context_encoder = new Encoder(shape.context);
    this.update_block = new UpdateBlock(shape);
    this.mask_predictor = shape.mask === undefined ? undefined : new MaskPredictor(shape.hidden, shape.mask);
  }

  /** Two images [B 3 H W] in [-1, 1], sides that divide by 8 and are no smaller than 128 -> flow [B 2 H W] from first to second. */
  forward(
    a: Tensor,
    b: Tensor,
    { numUpdates = UPDATES, tap = () => undefined, everyFlow = false }: FlowHow = {},
  ): Tensor {
    check(a, b, numUpdates);
    return scope(() => {
      const features = this.feature_encoder.forward(cat([a, b]));
      tap("feature_encoder", features);
      const [from, to] = features.chunk(2) as [Tensor, Tensor];
      const correlation = new Correlation(from, to, this.#shape);
      const seen = this.context_encoder.forward(a);
      tap("context_encoder", seen);
      const { hidden } = this.#shape;
      const [start, rest] = seen.split([hidden, seen.size(1) - hidden], 1) as [Tensor, Tensor];
      const context = rest.relu();
      const origin = places(from);
      let at = { state: start.tanh(), places: origin };
      for (let k = 0; k < numUpdates; k++) {
        at = scope(() => {
          const flow = at.places.sub(origin);
          const { state, delta } = this.update_block.forward(at.state, context, correlation.at(at.places), flow);
          return { state, places: at.places.add(delta) };
        });
        if (everyFlow && k < numUpdates - 1)
          scope(() => tap(`flow.${k}`, this.#enlarge(at.places.sub(origin), at.state)));
      }
      const flow = this.#enlarge(at.places.sub(origin), at.state);
      if (everyFlow) tap(`flow.${numUpdates - 1}`, flow);
      return flow;
    });
  }

  /** Images [B 3 H W] of any size: edges are repeated, evenly on both sides, until the size will do; the flow has the size given. */
  between(a: Tensor, b: Tensor, how?: FlowHow): Tensor {
    const [H, W] = [a.size(2), a.size(3)];
    const missing = (side: number): number => Math.max(LEAST, Math.ceil(side / STRIDE) * STRIDE) - side;
    const [y, x] = [missing(H), missing(W)];
    if (y === 0 && x === 0) return this.forward(a, b, how);
    return scope(() => {
      const [top, left] = [y >> 1, x >> 1];
      const [from, to] = [a, b].map((image) => pad(image, [left, x - left, top, y - top], "replicate")) as [
        Tensor,
        Tensor,
      ];
      return this.forward(from, to, how).narrow(2, top, H).narrow(3, left, W).contiguous();
    });
  }

  /** flow at an eighth [B 2 h w], state [B D h w] -> flow [B 2 8h 8w] */
  #enlarge(flow: Tensor, state: Tensor): Tensor {
    const [B, , h, w] = flow.shape as [number, number, number, number];
    const [H, W] = [STRIDE * h, STRIDE * w];
    if (this.mask_predictor === undefined)
      return interpolate(flow, { size: [H, W], mode: "bilinear", alignCorners: true }).mul(STRIDE);
    const weights = this.mask_predictor.forward(state).view([B, 1, 9, STRIDE, STRIDE, h, w]).softmax(2);
    const neighbours = unfold(flow.mul(STRIDE), [3, 3], { padding: [1, 1], stride: [1, 1], dilation: [1, 1] });
    const mixed = neighbours.view([B, 2, 9, 1, 1, h, w]).mul(weights).sum(2); // [B 2 8 8 h w]
    return mixed.permute([0, 1, 4, 2, 5, 3]).reshape([B, 2, H, W]);
  }
}

function check(a: Tensor, b: Tensor, numUpdates: number): void {
  if (a.shape.join() !== b.shape.join())
    throw new WaverError("shape_mismatch", `flow is between images of one size, not [${a.shape}] and [${b.shape}]`);
  const [H, W] = [a.size(2), a.size(3)];
  if (H % STRIDE !== 0 || W % STRIDE !== 0 || H < LEAST || W < LEAST)
    throw new WaverError(
      "shape_mismatch",
      `RAFT takes sides of at least ${LEAST} that divide by ${STRIDE}, not ${W} x ${H}`,
      {
        hint: "`between` pads images of any size",
      },
    );
  if (!Number.isInteger(numUpdates) || numUpdates < 1)
    throw new WaverError("invalid_input", `RAFT makes at least one update, not ${numUpdates}`);
}

/** [B 2 h w]: every place as (x, y) */
function places({ shape, device }: Tensor): Tensor {
  const [B, , h, w] = shape as [number, number, number, number];
  const count = (n: number): Tensor => arange(0, n, 1, { dtype: "float32", device });
  const grid = stack([count(w).view([1, w]).expand([h, w]), count(h).view([h, 1]).expand([h, w])]);
  return grid.unsqueeze(0).repeat([B, 1, 1, 1]);
}
