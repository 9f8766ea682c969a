/** Whole videos between files and tensors. Axes: B batch, F frames, H W rows and columns; pixels are packed RGB bytes. */
import { saveSafetensors, scope, type Tensor, tensor } from "../../native/index.ts";
import type { Context, FrameBatch } from "../../plugins/index.ts";

/** All frames of a file in its own size and rate: [1 3 F H W] in [-1, 1]. */
export async function readVideo(
  path: string,
  { media, signal }: Pick<Context, "media" | "signal">,
): Promise<{ video: Tensor; fps: number }> {
  const { width, height, fps } = await media.probe(path, signal);
  const parts: Uint8Array[] = [];
  for await (const { data, count } of media.frames(
    path,
    { width, height, fit: "stretch", rate: "native", format: "rgb24", batch: 16 },
    { signal },
  ))
    parts.push(data.slice(0, count * width * height * 3));
  const pixels = Buffer.concat(parts);
  const frames = pixels.length / (width * height * 3);
  const video = scope(() =>
    tensor(new Uint8Array(pixels))
      .reshape([1, frames, height, width, 3])
      .permute([0, 4, 1, 2, 3])
      .float()
      .div(127.5)
      .sub(1)
      .contiguous(),
  );
  return { video, fps };
}

/** [1 3 F H W] in [-1, 1] -> frames for an encoder. */
export function* toFrames(video: Tensor, fps: number): Iterable<FrameBatch> {
  const [, , frames, height, width] = video.shape as [number, number, number, number, number];
  for (let f = 0; f < frames; f++) {
    const data = scope(() =>
      video
        .select(0, 0)
        .select(1, f)
        .permute([1, 2, 0])
        .add(1)
        .mul(127.5)
        .round()
        .clamp(0, 255)
        .to("uint8")
        .contiguous()
        .toArray(),
    );
    yield { data: data as Uint8Array, count: 1, width, height, format: "rgb24", times: [f / fps] };
  }
}

/** Keeps latents in a file, under the name that every reader of latents looks for. */
export const saveLatents =
  (path: string) =>
  (latents: Tensor): void =>
    saveSafetensors(path, { latents });
