/** A clip's feature vector: the mean of its frames' pooled features, scaled to length 1 so that a dot product is a cosine. */
import { inferenceMode, packedImages, scope, type Tensor } from "../../native/index.ts";
import { type Context, type FrameBatch, meanOfFrames } from "../index.ts";
import type { EfficientNetLite0 } from "./model.ts";

/** Packed RGB frames -> images [B 3 H W] in [-1, 1]. */
export function toImages(frames: FrameBatch, device: string): Tensor {
  return scope(() => packedImages(frames).to({ device }).to("float32").div(127.5).sub(1));
}

export const embedFrames = (
  network: EfficientNetLite0,
  frames: AsyncIterable<FrameBatch>,
  { device, breathe }: Pick<Context, "device" | "breathe">,
): Promise<Float32Array<ArrayBuffer>> =>
  meanOfFrames(
    frames,
    (batch) => inferenceMode(() => scope(() => network.embed(toImages(batch, device)).sum(0).toFloat32Array())),
    { breathe },
  );
