// What image encoders share: pixels as a checkpoint wants them, features of frames, and the towers' weights in a file.
import { inferenceMode } from "../autograd.ts";
import type { DType } from "../dtype.ts";
import type { Checkpoint } from "../safetensors.ts";
import { scope } from "../scope.ts";
import type { Device, Tensor } from "../tensor.ts";
import { type Weights, weightsOf } from "../weights.ts";
import { type ImageSettings, type PackedImages, packedImages, preprocessImages } from "./images.ts";
import type { Module } from "./module.ts";

/** Where a network goes, and in which precision; as stored when absent. */
export interface Placement {
  readonly device: Device;
  readonly dtype?: DType | undefined;
}

/** [.. E] scaled to length 1 */
export const unit = (x: Tensor): Tensor => scope(() => x.div(x.norm(2, -1, true)));

/** A network that turns images into vectors, resident. */
export abstract class ImageFeatures<M extends Module> implements AsyncDisposable {
  readonly module: M;
  readonly settings: ImageSettings;
  readonly #device: Device;

  constructor(module: M, settings: ImageSettings, device: Device) {
    this.module = module;
    this.settings = settings;
    this.#device = device;
  }

  /** pixels [B 3 h w], as `prepare` gives them -> one vector an image [B E], of any length. */
  protected abstract embed(pixels: Tensor): Tensor;

  /** images uint8 [B 3 H W] -> pixel values [B 3 h w] on the device. Resized on the CPU, where whole grey levels are. */
  prepare(images: Tensor): Tensor {
    return scope(() => preprocessImages(images.to("cpu"), this.settings).to({ device: this.#device }));
  }

  /** Vectors of length 1 of all frames, added up. */
  sumOf(frames: PackedImages): Float32Array {
    const embed = (): Tensor => this.embed(this.prepare(packedImages(frames)));
    return inferenceMode(() => scope(() => unit(embed().to("float32")).sum(0).toFloat32Array()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.module.dispose();
  }
}

/** Position ids are counters that older checkpoints store among the weights. */
const isCounter = (key: string): boolean => key.endsWith(".position_ids");

/** Both towers of an image-text model. */
export const wholeOf = (file: Checkpoint): Weights => weightsOf(file, (key) => (isCounter(key) ? undefined : key));

/**
 * The vision tower's part of a file, and `also` by name. Transformers 5 stores a tower alone without the name that it has in the
 * whole model.
 */
export function visionTowerOf(file: Checkpoint, also?: string): Weights {
  const tower = "vision_model.";
  const isBare = file.has("embeddings.patch_embedding.weight");
  return weightsOf(file, (key) => {
    if (isCounter(key)) return undefined;
    if (key === also) return key;
    return isBare ? tower + key : key.startsWith(tower) ? key : undefined;
  });
}
