/**
 * Training crops for the VAE: spans of video and still pictures become clips of one size by a window that may pan and
 * zoom. Every source is kept at several sizes, area-averaged, so that a window is never shrunk by more than a third
 * when it is read bilinearly.
 *
 * Axes: F frames, H W rows and columns, S side of a training clip.
 */
import {
  type Device,
  type Generator,
  gridSample,
  interpolate,
  rand,
  scope,
  stack,
  type Tensor,
  tensor,
} from "../../native/index.ts";

/** Shorter sides at which a source is kept. */
const SIDES = [64, 96, 144, 216, 324, 486] as const;
/** Share of clips mirrored left to right. */
const MIRRORED = 0.5;

interface Size {
  readonly side: number;
  /** uint8 [F 3 H W]. */
  readonly frames: Tensor;
}

export class CropSource implements Disposable {
  readonly #sizes: readonly Size[];
  readonly numFrames: number;

  /** @param frames uint8 [F 3 H W], borrowed; one frame is a still picture, over which the window pans */
  constructor(frames: Tensor, device: Device) {
    const [F, , H, W] = frames.shape as [number, number, number, number];
    this.numFrames = F;
    const short = Math.min(H, W);
    const sides = [...new Set([...SIDES.filter((side) => side < short), short])];
    this.#sizes = sides.map((side) => ({ side, frames: scope(() => scaled(frames, side / short, device)) }));
  }

  /**
   * One clip float32 [3 F S S] in [-1, 1]. Draws come from `random`, a CPU generator.
   * With chance `whole` the clip is shown as a person would see it: from its start, the largest window, not mirrored.
   * A still picture pans over the whole clip; a video's window stays within a few pixels, as a hand-held camera would.
   */
  sample(
    random: Generator,
    how: { readonly frames: number; readonly side: number; readonly maxStride: number; readonly whole?: number },
  ): Tensor {
    return scope(() => {
      const u = rand([11], { generator: random }).toNumbers();
      const draw = (i: number, low: number, high: number): number => low + (u[i] as number) * (high - low);
      const still = this.numFrames === 1;
      const whole = !still && draw(10, 0, 1) < (how.whole ?? 0);
      const fits = this.#sizes.filter((size) => size.side >= how.side);
      const usable = fits.length > 0 ? fits : [this.#sizes.at(-1) as Size];
      const size = usable[whole ? 0 : Math.floor(draw(0, 0, usable.length))] as Size;
      const [, , H, W] = size.frames.shape as [number, number, number, number];
      const most = Math.max(1, Math.floor((this.numFrames - 1) / Math.max(1, how.frames - 1)));
      const stride = whole ? 1 : Math.max(1, Math.min(how.maxStride, most, 1 + Math.floor(draw(1, 0, how.maxStride))));
      const span = Math.min(this.numFrames, 1 + (how.frames - 1) * stride);
      const start = whole && how.frames > 1 ? 0 : Math.floor(draw(2, 0, this.numFrames - span + 1));
      const index = Array.from({ length: how.frames }, (_, f) => Math.min(start + f * stride, this.numFrames - 1));
      const picked = size.frames
        .indexSelect(0, tensor(index, { dtype: "int64", device: size.frames.device }))
        .to("float32")
        .div(127.5)
        .sub(1);
      // the window: side in source pixels, and its middle at the first and at the last frame
      const window0 = whole ? Math.min(H, W) : Math.min(H, W, how.side * draw(3, 1, 1.33));
      const window1 = still ? Math.min(H, W, window0 * draw(4, 0.8, 1.25)) : window0;
      const travel = still ? 1 : whole ? 0 : 0.06;
      const middle = (i: number, extent: number, window: number): number =>
        whole ? extent / 2 : window / 2 + draw(i, 0, extent - window);
      const [x0, y0] = [middle(5, W, window0), middle(6, H, window0)];
      const toward = (from: number, i: number, extent: number): number =>
        from + travel * (middle(i, extent, window1) - from);
      const [x1, y1] = [toward(x0, 7, W), toward(y0, 8, H)];
      const mirror = !whole && draw(9, 0, 1) < MIRRORED ? -1 : 1;
      const theta = Array.from({ length: how.frames }, (_, f) => {
        const a = how.frames === 1 ? 0 : f / (how.frames - 1);
        const mix = (from: number, to: number): number => from + a * (to - from);
        const window = mix(window0, window1);
        const inside = (m: number, extent: number): number => Math.min(Math.max(m, window / 2), extent - window / 2);
        const [cx, cy] = [inside(mix(x0, x1), W), inside(mix(y0, y1), H)];
        return [mirror * (window / W), 0, (2 * cx) / W - 1, 0, window / H, (2 * cy) / H - 1];
      });
      const grid = windowGrid(
        tensor(theta.flat(), { device: size.frames.device }).reshape([how.frames, 2, 3]),
        how.side,
      );
      return gridSample(picked, grid, { mode: "bilinear", paddingMode: "border", alignCorners: false })
        .permute([1, 0, 2, 3])
        .contiguous();
    });
  }

  [Symbol.dispose](): void {
    for (const size of this.#sizes) size.frames.dispose();
  }
}

/** uint8 [F 3 H W] scaled by `factor`, on `device`. */
function scaled(frames: Tensor, factor: number, device: Device): Tensor {
  if (factor === 1) return frames.to({ device, copy: true });
  const [, , H, W] = frames.shape as [number, number, number, number];
  const small = interpolate(frames.to("float32"), {
    size: [Math.round(H * factor), Math.round(W * factor)],
    mode: "area",
  });
  return small.round().clamp(0, 255).to("uint8").to(device);
}

/** Affine maps [F 2 3] -> sampling grid [F S S 2] of pixel middles. */
function windowGrid(theta: Tensor, side: number): Tensor {
  const axis = tensor(
    Array.from({ length: side }, (_, i) => (2 * i + 1) / side - 1),
    { device: theta.device },
  );
  const x = axis
    .reshape([1, 1, side])
    .mul(theta.select(1, 0).select(1, 0).reshape([-1, 1, 1]))
    .add(theta.select(1, 0).select(1, 2).reshape([-1, 1, 1]));
  const y = axis
    .reshape([1, side, 1])
    .mul(theta.select(1, 1).select(1, 1).reshape([-1, 1, 1]))
    .add(theta.select(1, 1).select(1, 2).reshape([-1, 1, 1]));
  const F = theta.size(0);
  return stack([x.expand([F, side, side]), y.expand([F, side, side])], -1);
}
