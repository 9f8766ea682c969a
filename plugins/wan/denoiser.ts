/** The Wan DiT as a denoiser: loaded from a Diffusers folder, flow time in, velocity out. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  cat,
  type Device,
  type DType,
  type Generator,
  itemSize,
  openCheckpoint,
  saveSafetensors,
  scope,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import {
  type Codec,
  type Denoiser,
  type DenoiserInput,
  type FlowConvention,
  type LatentSpec,
  type SampleDefaults,
  WaverError,
  z,
} from "../index.ts";
import { WanTransformer } from "./model.ts";
import { keepsFloat32, TEXT_LENGTH, WanConfig } from "./params.ts";

export interface Settings {
  readonly device: Device;
  readonly dtype?: DType | undefined;
  readonly textLength?: number | undefined;
}

const CLASS = "WanTransformer3DModel";
const WEIGHTS = "diffusion_pytorch_model.safetensors";

export function readConfig(folder: string): WanConfig {
  const path = join(folder, "config.json");
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} holds no config.json`, {
      hint: "path must name the folder of a transformer, for instance MODEL/transformer",
    });
  const parsed = WanConfig.safeParse(JSON.parse(readFileSync(path, "utf8")));
  if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, dtype?: DType): number {
  using weights = openCheckpoint(folder);
  return weights.keys.reduce((sum, key) => {
    const { bytes, shape } = weights.info(key);
    return (
      sum +
      (dtype === undefined ? bytes : itemSize(keepsFloat32(key) ? "float32" : dtype) * shape.reduce((a, b) => a * b, 1))
    );
  }, 0);
}

export class WanDenoiser implements Denoiser {
  readonly module: WanTransformer;
  readonly latent: LatentSpec;
  readonly convention: FlowConvention = { timeScale: 1000, predicts: "noise-data" };
  readonly taps: readonly string[];
  readonly textLength: number;
  readonly patch: readonly [number, number, number];
  /** Wan 2.1 at 480p (Wan 4.2, and diffusers' pipeline). */
  readonly defaults: Partial<SampleDefaults> = { width: 832, height: 480, numFrames: 81, fps: 16, numSteps: 50 };
  /** Only image-to-video checkpoints take known frames. */
  readonly condition?: Denoiser["condition"];
  readonly #config: WanConfig;

  private constructor(config: WanConfig, settings: Settings) {
    this.#config = config;
    this.module = new WanTransformer(config);
    // A Wan config does not name its VAE. 48 channels are Wan 2.2's (TI2V 5B), 16 times smaller; all others are Wan 2.1's.
    const side = config.out_channels === 48 ? 16 : 8;
    this.latent = { channels: config.out_channels, stride: [4, side, side] };
    this.taps = Array.from({ length: config.num_layers }, (_, i) => `blocks.${i}`);
    this.textLength = settings.textLength ?? TEXT_LENGTH;
    this.patch = config.patch_size;
    if (config.in_channels > config.out_channels) this.condition = greyCondition;
  }

  static load(folder: string, settings: Settings): WanDenoiser {
    const denoiser = new WanDenoiser(readConfig(folder), settings);
    const { dtype, device } = settings;
    using weights = openCheckpoint(folder);
    denoiser.module.load(weights, {
      device,
      ...(dtype === undefined ? {} : { dtype: (name: string) => (keepsFloat32(name) ? "float32" : dtype) }),
    });
    return denoiser;
  }

  /** Fresh weights, for training. */
  static init(config: WanConfig, generator: Generator, settings: Settings): WanDenoiser {
    const denoiser = new WanDenoiser(config, settings);
    denoiser.module.init(generator, settings);
    return denoiser;
  }

  forward({ latents, t, text, known }: DenoiserInput, taps?: Map<string, Tensor>): Tensor {
    return scope(() => {
      const { in_channels, out_channels, image_dim } = this.#config;
      if (image_dim != null)
        throw new WaverError(
          "invalid_input",
          "this Wan checkpoint reads its image through CLIP as well, which is not built yet",
          { hint: "use a text-to-video checkpoint" },
        );
      if ((known !== undefined) !== in_channels > out_channels)
        throw new WaverError(
          "invalid_input",
          known === undefined
            ? "this Wan checkpoint continues an image: give one"
            : "this Wan checkpoint makes video from text only: leave the image out",
        );
      // mask before latents (waver.md has them the other way round)
      const x =
        known === undefined
          ? latents
          : cat([latents, known.mask.to(latents.dtype), known.latents.to(latents.dtype)], 1);
      const wanted = new Set(taps === undefined ? [] : this.taps);
      const timestep = t.mul(this.convention.timeScale); // in the dtype of t: a float64 brings integers through
      const velocity = this.module.forward({ latents: x, timestep, text: text.states }, (name, value) => {
        if (wanted.has(name)) taps?.set(name, value);
      });
      // taps leave with the result
      return { velocity: velocity.to(latents.dtype), taps };
    }).velocity;
  }

  async save(folder: string): Promise<void> {
    mkdirSync(folder, { recursive: true });
    saveSafetensors(join(folder, WEIGHTS), this.module.stateDict(), { format: "pt" });
    writeFileSync(join(folder, "config.json"), `${JSON.stringify({ _class_name: CLASS, ...this.#config }, null, 2)}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.module.dispose();
  }
}

/** Wan fills unknown frames with mid-grey; the mask folds a frame's four neighbours in time into channels. */
function greyCondition(frames: Tensor, isKnown: readonly boolean[], codec: Codec): { latents: Tensor; mask: Tensor } {
  const [B, , F] = frames.shape as [number, number, number];
  if (isKnown.length !== F) throw new WaverError("shape_mismatch", `${isKnown.length} flags for ${F} frames`);
  return scope(() => {
    const flags = tensor(isKnown.map(Number), { device: frames.device });
    const latents = codec.encode(frames.mul(flags.to(frames.dtype).view([1, 1, F, 1, 1])));
    const [, , T, h, w] = latents.shape as [number, number, number, number, number];
    const stride = codec.latent.stride[0];
    // the first frame stands for a whole group
    const mask = cat([flags.narrow(0, 0, 1).repeat([stride]), flags.narrow(0, 1, F - 1)])
      .view([1, T, stride, 1, 1])
      .transpose(1, 2);
    return { latents, mask: mask.expand([B, stride, T, h, w]).contiguous() };
  });
}
