/** A clip's feature vector: the mean of its frames' pooled features, scaled to length 1 so that a dot product is a cosine. */
import { fromBytes, inferenceMode, scope, type Tensor } from "../../native/index.ts";
import type { Context } from "../define.ts";
import { WaverError } from "../errors.ts";
import type { FrameBatch } from "../types.ts";
import { type EfficientNetLite0, FEATURES } from "./model.ts";

/** Packed RGB frames -> images [B 3 H W] in [-1, 1]. */
export function toImages({ data, count, height, width }: FrameBatch, device: string): Tensor {
  return scope(() =>
    fromBytes(data, "uint8", [count, height, width, 3])
      .to({ device })
      .permute([0, 3, 1, 2])
      .to("float32")
      .div(127.5)
      .sub(1),
  );
}

export async function embedFrames(
  network: EfficientNetLite0,
  frames: AsyncIterable<FrameBatch>,
  { device, breathe }: Pick<Context, "device" | "breathe">,
): Promise<Float32Array<ArrayBuffer>> {
  const sum = new Float64Array(FEATURES);
  for await (const batch of frames) {
    if (batch.format !== "rgb24") throw new WaverError("invalid_input", "image features need rgb24 frames");
    const total = inferenceMode(() => scope(() => network.embed(toImages(batch, device)).sum(0).toFloat32Array()));
    for (let i = 0; i < FEATURES; i++) sum[i] = (sum[i] as number) + (total[i] as number);
    await breathe();
  }
  const length = Math.hypot(...sum);
  if (length === 0) throw new WaverError("media_empty", "a clip without frames has no features");
  return Float32Array.from(sum, (value) => value / length);
}
