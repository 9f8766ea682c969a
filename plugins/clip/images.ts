/** Images through CLIP's vision tower: preprocessed as its checkpoint says, then embedded. */
import { ImageFeatures, type Placement, scope, type Tensor } from "../../native/index.ts";
import type { ImageEncoder } from "../index.ts";
import { imageSettings, loadVision } from "./checkpoint.ts";
import type { ClipVision } from "./model.ts";

export class ClipImages extends ImageFeatures<ClipVision> implements ImageEncoder {
  static load(folder: string, settings: Placement): ClipImages {
    const { model, config } = loadVision(folder, settings);
    return new ClipImages(model, imageSettings(folder, config), settings.device);
  }

  /** images uint8 [B 3 H W] -> tokens [B 1+P D] before the last layer, class token first: what Wan's image-to-video was trained on. */
  encode(images: Tensor): Tensor {
    return scope(() => this.module.vision_model.forward(this.prepare(images), { skipLast: 1 }));
  }

  protected embed(pixels: Tensor): Tensor {
    return this.module.embedImages(pixels);
  }
}
