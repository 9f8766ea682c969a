/** Frames through DINOv2: preprocessed as its checkpoint says, then embedded. */
import { ImageFeatures, type Placement, scope, type Tensor, tensor } from "../../native/index.ts";
import type { Perception } from "../index.ts";
import { imageSettings, loadDinov2, MEAN, STD } from "./checkpoint.ts";
import type { Dinov2 } from "./model.ts";

/** Maps that `features` gives: after each quarter of the layers. */
export const TAPS = 4;

export class Dinov2Images extends ImageFeatures<Dinov2> implements Perception {
  static load(folder: string, settings: Placement): Dinov2Images {
    return new Dinov2Images(loadDinov2(folder, settings).model, imageSettings(folder), settings.device);
  }

  /** Class tokens. */
  protected embed(pixels: Tensor): Tensor {
    return this.module.pool(this.module.forward(pixels));
  }

  /** images [B 3 H W] in [-1, 1], in their own size -> four maps of patches [B D H/14 W/14]; gradients flow to the images. */
  features(images: Tensor): Tensor[] {
    return scope(() => {
      const channels = (values: readonly number[]): Tensor =>
        tensor([...values], { device: images.device }).view([1, -1, 1, 1]);
      const pixels = images.to("float32").add(1).div(2).sub(channels(MEAN)).div(channels(STD));
      const numLayers = this.module.encoder.layer.length;
      const depths = Array.from({ length: TAPS }, (_, i) => Math.ceil((numLayers * (i + 1)) / TAPS));
      return this.module.maps(pixels, depths);
    });
  }
}
