/** The Wan DiT as a denoiser: loaded from a checkpoint, flow time in, velocity out. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  type Device,
  type DType,
  Generator,
  hasWeights,
  offloadedBytes,
  packingPays,
  packLinears,
  saveSafetensors,
  scope,
  type Tensor,
  type WeightForm,
} from "../../native/index.ts";
import {
  type Denoiser,
  type DenoiserInput,
  type FlowConvention,
  type LatentSpec,
  type SampleDefaults,
  type Task,
  WaverError,
} from "../index.ts";
import { configOf, originalLayer, WanCheckpoint } from "./checkpoint.ts";
import { besideNoise, inPlace, type KnownForm, withoutKnown } from "./known.ts";
import type { Tap } from "./layers.ts";
import { WanTransformer } from "./model.ts";
import { keepsFloat32, TEXT_LENGTH, type WanConfig } from "./params.ts";

export interface Settings {
  readonly device: Device;
  readonly dtype?: DType | undefined;
  readonly textLength?: number | undefined;
  /** Whether tokens of a known first frame have a time of their own, 0 (Wan 2.2 TI2V). */
  readonly expandTimesteps?: boolean | undefined;
  /** What most weights of the blocks are kept in. */
  readonly weights?: WeightForm | undefined;
  /** Weights of the blocks are on the device around their turns only. */
  readonly offload?: boolean | undefined;
}

const CLASS = "WanTransformer3DModel";
const WEIGHTS = "diffusion_pytorch_model.safetensors";

/** Bytes of the weights, from the headers alone; with `offload`, of those that are on the device at a time. */
export function weightBytes(path: string, dtype?: DType, offload = false): number {
  using weights = new WanCheckpoint(path);
  const network = new WanTransformer(weights.config);
  if (offload) return offloadedBytes(network, (_, name) => weights.bytes([name], dtype));
  const names = Array.from(network.namedWeights(), ([name]) => name);
  return weights.bytes(names, dtype);
}

/** Bytes that a loaded model takes: its weights, and in bfloat16 on a CPU those of its blocks a second time. */
export function residentBytes(path: string, settings: Omit<Settings, "device">): number {
  const { dtype, offload, weights } = settings;
  if (weights !== undefined) {
    using shapes = WanDenoiser.load(path, { ...settings, device: "meta" }).module;
    return shapes.loadedBytes();
  }
  const bytes = weightBytes(path, dtype, offload);
  return dtype !== "float32" && packingPays(weightBytes(path, dtype)) ? 2 * bytes : bytes;
}

/** The pipeline around a transformer knows what its config does not: a Wan 2.2 TI2V sets `expand_timesteps` there. */
function statedByPipeline(path: string): boolean | undefined {
  const file = join(dirname(path), "model_index.json");
  if (!existsSync(file)) return undefined;
  try {
    const { expand_timesteps } = JSON.parse(readFileSync(file, "utf8")) as { expand_timesteps?: unknown };
    return typeof expand_timesteps === "boolean" ? expand_timesteps : undefined;
  } catch (cause) {
    throw new WaverError("checkpoint_invalid", `${file} is not JSON`, { cause });
  }
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
  readonly tasks: readonly Task[];
  readonly numImages?: 1 | 2;
  readonly condition?: NonNullable<Denoiser["condition"]>;
  readonly finish?: NonNullable<Denoiser["finish"]>;
  readonly #config: WanConfig;
  readonly #known: KnownForm;

  private constructor(config: WanConfig, settings: Settings) {
    this.#config = config;
    this.module = new WanTransformer(config);
    // A Wan config does not name its VAE. 48 channels are Wan 2.2's (TI2V 5B), 16 times smaller; all others are Wan 2.1's.
    const isTextAndImage = config.out_channels === 48;
    const side = isTextAndImage ? 16 : 8;
    this.latent = { channels: config.out_channels, stride: [4, side, side] };
    this.taps = Array.from({ length: config.num_layers }, (_, i) => `blocks.${i}`);
    this.textLength = settings.textLength ?? TEXT_LENGTH;
    this.patch = config.patch_size;
    const hasRoom = config.in_channels > config.out_channels;
    this.#known = hasRoom ? besideNoise : (settings.expandTimesteps ?? isTextAndImage) ? inPlace : withoutKnown;
    if (this.#known.condition !== undefined) this.condition = this.#known.condition;
    if (this.#known.finish !== undefined) this.finish = this.#known.finish;
    const readsBoth = config.image_dim != null && config.pos_embed_seq_len != null;
    this.tasks = readsBoth ? ["interpolate"] : this.#known.tasks;
    if (config.image_dim != null) this.numImages = readsBoth ? 2 : 1;
  }

  /** From a folder in Diffusers' or Wan's own layout, or a single file. */
  static load(path: string, settings: Settings): WanDenoiser {
    if (settings.device === "meta" && !hasWeights(path)) return WanDenoiser.#shaped(path, settings);
    const { dtype, device, weights, offload = false, expandTimesteps = statedByPipeline(path) } = settings;
    const file = new WanCheckpoint(path);
    const denoiser = new WanDenoiser(file.config, { ...settings, expandTimesteps });
    denoiser.module.loadFrom(file, {
      device,
      weights,
      offload,
      rename: file.rename,
      ...(dtype === undefined ? {} : { dtype: (name: string) => (keepsFloat32(name) ? "float32" : dtype) }),
    });
    return denoiser.#packed(device);
  }

  /** Shapes alone, of weights that are not here; bfloat16 is what they are published in. */
  static #shaped(path: string, settings: Settings): WanDenoiser {
    using generator = new Generator(0);
    const expandTimesteps = settings.expandTimesteps ?? statedByPipeline(path);
    return WanDenoiser.init(configOf(path), generator, {
      ...settings,
      expandTimesteps,
      dtype: settings.dtype ?? "bfloat16",
    });
  }

  /** Fresh weights, for training. */
  static init(config: WanConfig, generator: Generator, settings: Settings): WanDenoiser {
    const denoiser = new WanDenoiser(config, settings);
    denoiser.module.init(generator, settings);
    return denoiser.#packed(settings.device);
  }

  #packed(device: Device): this {
    const bytes = this.module.parameters().reduce((sum, weight) => sum + weight.bytesAs(weight.dtype), 0);
    if ((device === "cpu" || device === "meta") && packingPays(bytes)) this.module.blocks.forEach(packLinears);
    return this;
  }

  forward({ latents, t, text, known, image }: DenoiserInput, taps?: Map<string, Tensor>): Tensor {
    return scope(() => {
      this.#checkImage(image);
      const timestep = t.mul(this.convention.timeScale); // in the dtype of t: a float64 brings integers through
      const input = this.#known.input({ latents, timestep, known }, this.patch);
      const wanted = new Set(this.taps);
      const tap: Tap | undefined =
        taps &&
        ((name, value) => {
          if (wanted.has(name)) taps.set(name, value());
        });
      const velocity = this.module.forward({ ...input, text: text.states, image }, tap);
      // taps leave with the result
      return { velocity: velocity.to(latents.dtype), taps };
    }).velocity;
  }

  #checkImage(image: Tensor | undefined): void {
    const { image_dim, pos_embed_seq_len } = this.#config;
    if (image === undefined && image_dim == null) return;
    if (image === undefined)
      throw new WaverError("invalid_input", "this Wan checkpoint reads its image through an image encoder as well", {
        hint: "give an image, and use a pipeline whose model_index.json names an image_encoder",
      });
    if (image.size(2) !== image_dim)
      throw new WaverError(
        "checkpoint_mismatch",
        image_dim == null
          ? "this Wan checkpoint reads no image tokens"
          : `the image encoder's tokens are ${image.size(2)} wide, this Wan checkpoint takes ${image_dim}`,
      );
    if (pos_embed_seq_len != null && image.size(1) !== pos_embed_seq_len)
      throw new WaverError(
        "invalid_input",
        `this Wan checkpoint reads ${pos_embed_seq_len} image tokens, of a first and a last frame, and was given ${image.size(1)}`,
        { hint: "give lastImage as well" },
      );
  }

  aliases(layer: string): readonly string[] {
    return [originalLayer(layer)];
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
