// Images and videos of any size as patches for a language model that sees (Qwen2-VL 2.1): sizes that divide, and patches in
// blocks, since a block becomes one token.
import { EngineError } from "../errors.ts";
import { cat } from "../ops.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { preprocessImages } from "./images.ts";

/** In the words of `preprocessor_config.json`. */
export interface PatchSettings {
  /** Pixels of a patch's side, patches of a block's side, frames of a patch. */
  readonly patch_size: number;
  readonly merge_size: number;
  readonly temporal_patch_size: number;
  /** Pixels of a frame. */
  readonly min_pixels: number;
  readonly max_pixels: number;
  readonly image_mean: readonly number[];
  readonly image_std: readonly number[];
}

/** Frames of patches, and rows and columns of them. */
export type PatchGrid = readonly [number, number, number];

/** The reference refuses longer shapes. */
const MAX_ASPECT = 200;

/** Height and width that divide by a block's side, with pixels between the limits, as near to the aspect as that allows. */
export function smartResize(
  height: number,
  width: number,
  { patch_size, merge_size, min_pixels, max_pixels }: PatchSettings,
): [number, number] {
  const factor = patch_size * merge_size;
  const aspect = Math.max(height, width) / Math.min(height, width);
  if (!(aspect <= MAX_ASPECT))
    throw new EngineError("tensor_shape", `an image of ${width} x ${height} is too long: at most ${MAX_ASPECT} to 1`);
  const both = (side: (pixels: number) => number): [number, number] => [side(height), side(width)];
  const near = both((pixels) => roundHalfEven(pixels / factor) * factor);
  const pixels = near[0] * near[1];
  if (pixels > max_pixels) {
    const shrink = Math.sqrt((height * width) / max_pixels);
    return both((pixels) => Math.max(factor, Math.floor(pixels / shrink / factor) * factor));
  }
  if (pixels < min_pixels) {
    const grow = Math.sqrt(min_pixels / (height * width));
    return both((pixels) => Math.ceil((pixels * grow) / factor) * factor);
  }
  return near;
}

/** Python's round: a half goes to the even neighbour. */
function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  return rest < 0.5 || (rest === 0.5 && down % 2 === 0) ? down : down + 1;
}

/** uint8 frames [F C H W] of one image (F 1) or video -> patches [N, C * frames * rows * columns] in float32, and their grid. */
export function patchify(frames: Tensor, settings: PatchSettings): { patches: Tensor; grid: PatchGrid } {
  const { patch_size: P, merge_size: M, temporal_patch_size: T, image_mean: mean, image_std: std } = settings;
  const [F, C, H, W] = frames.shape as [number, number, number, number];
  const [height, width] = smartResize(H, W, settings);
  const resize = { height, width };
  return scope(() => {
    const pixels = preprocessImages(frames, {
      resize,
      resample: "bicubic",
      crop: null,
      rescale: 1 / 255,
      normalize: { mean, std },
    });
    // a temporal patch that is not full repeats the last frame
    const missing = (T - (F % T)) % T;
    const whole =
      missing === 0 ? pixels : cat([pixels, pixels.narrow(0, F - 1, 1).expand([missing, C, height, width])]);
    const grid: PatchGrid = [(F + missing) / T, height / P, width / P];
    const patches = whole
      .reshape([grid[0], T, C, grid[1] / M, M, P, grid[2] / M, M, P])
      .permute([0, 3, 6, 4, 7, 2, 1, 5, 8])
      .reshape([grid[0] * grid[1] * grid[2], C * T * P * P]);
    return { patches, grid };
  });
}
