/** Frames through SigLIP: preprocessed as its checkpoint says, then embedded. */
import {
  type ImageSettings,
  inferenceMode,
  packedImages,
  preprocessImages,
  scope,
  type Tensor,
} from "../../native/index.ts";
import type { FrameBatch } from "../index.ts";
import { imageSettings, loadVision, type Settings } from "./checkpoint.ts";
import { type SiglipVision, unit } from "./model.ts";

export class SiglipImages implements Disposable {
  readonly module: SiglipVision;
  readonly settings: ImageSettings;
  readonly #device: string;

  private constructor(module: SiglipVision, settings: ImageSettings, device: string) {
    this.module = module;
    this.settings = settings;
    this.#device = device;
  }

  static load(folder: string, settings: Settings): SiglipImages {
    const { model, config } = loadVision(folder, settings);
    return new SiglipImages(model, imageSettings(folder, config), settings.device);
  }

  /** Embeddings of length 1 of all frames, added up. */
  sumOf(frames: FrameBatch): Float32Array {
    const { vision_model } = this.module;
    const embed = (): Tensor => {
      const pixels = preprocessImages(packedImages(frames), this.settings).to({ device: this.#device });
      return vision_model.pool(vision_model.forward(pixels));
    };
    return inferenceMode(() => scope(() => unit(embed().to("float32")).sum(0).toFloat32Array()));
  }

  [Symbol.dispose](): void {
    this.module.dispose();
  }
}
