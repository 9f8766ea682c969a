/** Frames as VideoLLaMA3 wants them: patches, the tokens that are kept (arXiv 2501.13106, 2.2), and the time of each frame in the text. */
import { cat, full, type PatchGrid, patchify, scope, type Tensor } from "../../native/index.ts";
import type { VideoProcessorConfig } from "./params.ts";

/** Mean difference of grey levels (on twice their scale: pixels are -1 to 1) above which a block differs from the frame before. */
const THRESHOLD = 0.1;

export interface PreparedVideo {
  readonly patches: Tensor;
  readonly grid: PatchGrid;
  /** [tokens], frame by frame. */
  readonly kept: readonly boolean[];
}

/** uint8 frames [F 3 H W] -> patches and which tokens are kept. The limit of pixels is one for all frames together. */
export function prepareVideo(frames: Tensor, config: VideoProcessorConfig): PreparedVideo {
  const max_pixels = Math.floor(config.max_pixels / frames.size(0));
  return scope(() => {
    const { patches, grid } = patchify(frames, { ...config, max_pixels });
    return { patches, grid, kept: keptTokens(patches, grid, config) };
  });
}

/** A token goes when its block of pixels hardly differs from the one before; of every frame at least the first stays. */
function keptTokens(patches: Tensor, [T, H, W]: PatchGrid, config: VideoProcessorConfig): boolean[] {
  const perFrame = (H * W) / config.merge_size ** 2;
  if (T === 1 || !config.use_token_compression) return new Array<boolean>(T * perFrame).fill(true);
  const blocks = patches.view([T, perFrame, -1]);
  const change = blocks
    .narrow(0, 1, T - 1)
    .sub(blocks.narrow(0, 0, T - 1))
    .abs()
    .mean(-1)
    .mul(255);
  const differs = cat([full([1, perFrame], 1), change.gt(THRESHOLD).float()])
    .toNumbers()
    .map(Boolean);
  for (let frame = 0; frame < T; frame++) {
    const at = frame * perFrame;
    if (!differs.slice(at, at + perFrame).some(Boolean)) differs[at] = true;
  }
  return differs;
}

/** What stands in the place of the template's mark: before the tokens of each frame its time. */
export function markedFrames(mark: string, times: readonly number[], kept: readonly boolean[]): string {
  const perFrame = kept.length / times.length;
  return times
    .map((time, frame) => {
      const count = kept.slice(frame * perFrame, (frame + 1) * perFrame).filter(Boolean).length;
      return `Time ${time.toFixed(1)}s:${mark.repeat(count)}`;
    })
    .join(",");
}
