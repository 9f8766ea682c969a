/** Frames through DINOv2: preprocessed as its checkpoint says, then embedded. */
import {
  type ImageSettings,
  inferenceMode,
  packedImages,
  preprocessImages,
  scope,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import type { FrameBatch, Perception } from "../index.ts";
import { imageSettings, loadDinov2, MEAN, type Settings, STD } from "./checkpoint.ts";
import type { Dinov2 } from "./model.ts";

/** Maps that `features` gives: after each quarter of the layers. */
export const TAPS = 4;

export class Dinov2Images implements Perception {
  readonly module: Dinov2;
  readonly settings: ImageSettings;
  readonly #device: string;
  readonly #depths: readonly number[];

  private constructor(module: Dinov2, settings: ImageSettings, device: string) {
    this.module = module;
    this.settings = settings;
    this.#device = device;
    const numLayers = module.encoder.layer.length;
    this.#depths = Array.from({ length: TAPS }, (_, i) => Math.ceil((numLayers * (i + 1)) / TAPS));
  }

  static load(folder: string, settings: Settings): Dinov2Images {
    return new Dinov2Images(loadDinov2(folder, settings).model, imageSettings(folder), settings.device);
  }

  /** Class tokens, scaled to length 1, of all frames, added up. */
  sumOf(frames: FrameBatch): Float32Array {
    const embed = (): Tensor => {
      const pixels = preprocessImages(packedImages(frames), this.settings).to({ device: this.#device });
      return this.module.pool(this.module.forward(pixels)).to("float32");
    };
    return inferenceMode(() =>
      scope(() => {
        const tokens = embed();
        return tokens
          .div(tokens.norm(2, -1, true))
          .sum(0)
          .toFloat32Array();
      }),
    );
  }

  /** images [B 3 H W] in [-1, 1], in their own size -> four maps of patches [B D H/14 W/14]; gradients flow to the images. */
  features(images: Tensor): Tensor[] {
    return scope(() => {
      const channels = (values: readonly number[]): Tensor =>
        tensor([...values], { device: images.device }).view([1, -1, 1, 1]);
      const pixels = images.to("float32").add(1).div(2).sub(channels(MEAN)).div(channels(STD));
      return this.module.maps(pixels, this.#depths);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.module.dispose();
  }
}
