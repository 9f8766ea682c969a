/** The network as the rest of the system meets it: a `Denoiser` for sampling, training and refining. */
import { packingPays, packLinears, scope, type Tensor, tensor } from "../../native/index.ts";
import {
  type Codec,
  type Denoiser,
  type DenoiserInput,
  type FlowConvention,
  type LatentSpec,
  WaverError,
} from "../index.ts";
import { load, save } from "./checkpoint.ts";
import { conditions } from "./conditions.ts";
import type { WaverTransformer } from "./model.ts";

export class WaverDenoiser implements Denoiser {
  readonly module: WaverTransformer;
  readonly latent: LatentSpec;
  readonly patch: readonly [number, number, number];
  /** A refiner, told by its windows, points from degraded to clean; the generator from data to noise (Waver 2.2). */
  readonly convention: FlowConvention;
  /** Waver 4.2 aligns the 16th of 56 layers: the last dual-stream block. */
  readonly taps: readonly string[];

  constructor(network: WaverTransformer) {
    this.module = network;
    if (packingPays(network.bytes("bfloat16")))
      for (const block of [...network.dual, ...network.single]) packLinears(block);
    const { out_channels, num_dual, patch_size, window } = network.params;
    this.latent = { channels: out_channels, stride: [4, 8, 8] };
    this.patch = patch_size;
    this.convention = { timeScale: 1, predicts: window === null ? "noise-data" : "data-noise" };
    this.taps = num_dual === 0 ? [] : [`dual.${num_dual - 1}.video`];
  }

  static async load(folder: string, how: Parameters<typeof load>[1]): Promise<WaverDenoiser> {
    return new WaverDenoiser(await load(folder, how));
  }

  forward({ latents, t, text, text2, known }: DenoiserInput, taps?: Map<string, Tensor>): Tensor {
    if (known === undefined)
      throw new WaverError("needs_unmet", "Waver always takes a condition, also when nothing is known", {
        hint: "build it with condition(frames, [false, ...], codec)",
      });
    const { t5_dim, qwen_dim } = this.module.params;
    const both = t5_dim !== null && qwen_dim !== null;
    if (both && text2 === undefined)
      throw new WaverError("needs_unmet", "this network takes two text encoders and was given one");
    const t5 = t5_dim === null ? null : text;
    const qwen = qwen_dim === null ? null : both ? (text2 ?? null) : text;
    return this.module.forward({ latents, t, known, t5, qwen }, taps);
  }

  condition(frames: Tensor, isKnown: readonly boolean[], codec: Codec): { latents: Tensor; mask: Tensor } {
    if (frames.size(2) !== isKnown.length)
      throw new WaverError("shape_mismatch", `${isKnown.length} flags for ${frames.size(2)} frames`);
    return scope(() => conditions(frames, tensor([isKnown]).expand([frames.size(0), -1]), codec));
  }

  save(folder: string): Promise<void> {
    return save(this.module, folder);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.module.dispose();
  }
}
