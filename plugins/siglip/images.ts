/** Frames through SigLIP: preprocessed as its checkpoint says, then embedded. */
import { ImageFeatures, type Placement, type Tensor } from "../../native/index.ts";
import { imageSettings, loadVision } from "./checkpoint.ts";
import type { SiglipVision } from "./model.ts";

export class SiglipImages extends ImageFeatures<SiglipVision> {
  static load(folder: string, settings: Placement): SiglipImages {
    const { model, config } = loadVision(folder, settings);
    return new SiglipImages(model, imageSettings(folder, config), settings.device);
  }

  protected embed(pixels: Tensor): Tensor {
    const { vision_model } = this.module;
    return vision_model.pool(vision_model.forward(pixels));
  }
}
