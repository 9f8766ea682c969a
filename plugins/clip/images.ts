/** Images through CLIP's vision tower: preprocessed as its checkpoint says, then embedded. */
import {
  type ImageSettings,
  inferenceMode,
  packedImages,
  preprocessImages,
  scope,
  type Tensor,
} from "../../native/index.ts";
import type { FrameBatch, ImageEncoder } from "../index.ts";
import { imageSettings, loadVision, type Settings } from "./checkpoint.ts";
import { type ClipVision, unit } from "./model.ts";

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

  /** Embeddings of length 1 of all frames, added up. */
  sumOf(frames: FrameBatch): Float32Array {
    const embed = (): Tensor => this.module.embedImages(this.prepare(packedImages(frames)));
    return inferenceMode(() => scope(() => unit(embed().to("float32")).sum(0).toFloat32Array()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.module.dispose();
  }
}
