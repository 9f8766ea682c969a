/** Images through CLIP's vision tower: preprocessed as its checkpoint says, then embedded. */
import {
  fromBytes,
  type ImageSettings,
  inferenceMode,
  preprocessImages,
  scope,
  type Tensor,
} from "../../native/index.ts";
import { type Context, type FrameBatch, type ImageEncoder, WaverError } from "../index.ts";
import { imageSettings, loadVision, type Settings } from "./checkpoint.ts";
import { type ClipVision, unit } from "./model.ts";

/** Packed RGB frames -> images uint8 [B 3 H W] */
export function toImages({ data, count, height, width, format }: FrameBatch): Tensor {
  if (format !== "rgb24") throw new WaverError("invalid_input", "image features need rgb24 frames");
  return scope(() => fromBytes(data, "uint8", [count, height, width, 3]).permute([0, 3, 1, 2]).contiguous());
}

export class ClipImages implements ImageEncoder {
  readonly module: ClipVision;
  readonly settings: ImageSettings;
  readonly #device: string;

  private constructor(module: ClipVision, settings: ImageSettings, device: string) {
    this.module = module;
    this.settings = settings;
    this.#device = device;
  }

  static load(folder: string, settings: Settings): ClipImages {
    const { model, config } = loadVision(folder, settings);
    return new ClipImages(model, imageSettings(folder, config), settings.device);
  }

  /** images uint8 [B 3 H W] -> pixel values [B 3 h w] on the device. Resized on the CPU, where whole grey levels are. */
  prepare(images: Tensor): Tensor {
    return scope(() => preprocessImages(images.to("cpu"), this.settings).to({ device: this.#device }));
  }

  /** images uint8 [B 3 H W] -> tokens [B 1+P D] before the last layer, class token first: what Wan's image-to-video was trained on. */
  encode(images: Tensor): Tensor {
    return scope(() => this.module.vision_model.forward(this.prepare(images), { skipLast: 1 }));
  }

  /** images uint8 [B 3 H W] -> embeddings of length 1 [B E], float32 */
  embed(images: Tensor): Tensor {
    return inferenceMode(() => scope(() => unit(this.module.embedImages(this.prepare(images)).to("float32"))));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.module.dispose();
  }
}

/** A clip's embedding: the mean of its frames', scaled to length 1 again. */
export async function embedFrames(
  images: ClipImages,
  frames: AsyncIterable<FrameBatch>,
  ctx: Pick<Context, "breathe">,
): Promise<Float32Array<ArrayBuffer>> {
  let sum: Float64Array | undefined;
  for await (const batch of frames) {
    const total = scope(() => images.embed(toImages(batch)).sum(0).toFloat32Array());
    sum ??= new Float64Array(total.length);
    for (const [i, value] of total.entries()) sum[i] = (sum[i] as number) + value;
    await ctx.breathe();
  }
  if (sum === undefined) throw new WaverError("media_empty", "a clip without frames has no features");
  const length = Math.hypot(...sum) || 1;
  return Float32Array.from(sum, (value) => value / length);
}
