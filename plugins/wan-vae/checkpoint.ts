/**
 * A Wan VAE on disk: Diffusers' folder, or one file under Wan's own names (ComfyUI's are the same), of Wan 2.1 or 2.2.
 * Weights keep the names of their file; `rename` says which of them a weight of the network is.
 */
import { existsSync } from "node:fs";
import {
  type Checkpoint,
  type DType,
  itemSize,
  openCheckpoint,
  type Tensor,
  type WeightSource,
} from "../../native/index.ts";
import { needSafetensors, statedBeside } from "../beside.ts";
import { WaverError } from "../index.ts";
import { VaeConfig } from "./params.ts";

/** The numbers of Wan's own code (wan/modules/vae.py and vae2_2.py): a file of weights does not hold them. */
const WAN_2_1 = {
  latents_mean: [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
    -0.9497, 0.2503, -0.2921,
  ],
  latents_std: [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
    2.8251, 1.916,
  ],
};
const WAN_2_2 = {
  latents_mean: [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.157,
    -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322,
    0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052,
    0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
  ],
  latents_std: [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165,
    0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917,
    0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06,
    0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
  ],
};

/** Ends of names in a residual block, ours to Wan's: a list of layers there. */
const IN_BLOCK: readonly (readonly [string, string])[] = [
  ["norm1.", "residual.0."],
  ["conv1.", "residual.2."],
  ["norm2.", "residual.3."],
  ["conv2.", "residual.6."],
  ["conv_shortcut.", "shortcut."],
];
const inBlock = (rest: string): string => {
  const [ours, theirs] = IN_BLOCK.find(([ours]) => rest.startsWith(ours)) ?? ["", ""];
  return theirs + rest.slice(ours.length);
};

/** A weight of the network under the name that Wan's own files give it. */
export function originalName(name: string, { is_residual, num_res_blocks }: VaeConfig): string {
  const [, coder, at] = name.match(/^(encoder|decoder)\.(.*)$/) ?? [];
  if (coder === undefined) return name.replace(/^post_quant_conv\./, "conv2.").replace(/^quant_conv\./, "conv1.");
  const [, part, index, inner] = (at as string).match(/^mid_block\.(resnets|attentions)\.(\d)\.(.*)$/) ?? [];
  if (part === "attentions") return `${coder}.middle.1.${inner}`;
  if (part === "resnets") return `${coder}.middle.${2 * Number(index)}.${inBlock(inner as string)}`;
  const [, level, rest] = (at as string).match(/^(?:down|up)_blocks\.(\d+)\.(.*)$/) ?? [];
  if (level === undefined)
    return `${coder}.${(at as string)
      .replace(/^conv_in\./, "conv1.")
      .replace(/^norm_out\./, "head.0.")
      .replace(/^conv_out\./, "head.2.")}`;
  const list = coder === "encoder" ? "downsamples" : "upsamples";
  const [, block, inside] = (rest as string).match(/^resnets\.(\d+)\.(.*)$/) ?? [];
  // a level's blocks, one more in the decoder, and behind them what resizes
  const numBlocks = num_res_blocks + (coder === "decoder" ? 1 : 0);
  const resizer = (rest as string).replace(/^(downsampler|upsamplers\.0|upsampler)\./, "");
  const [place, leaf] = block === undefined ? [numBlocks, resizer] : [Number(block), inBlock(inside as string)];
  if (is_residual) return `${coder}.${list}.${level}.${list}.${place}.${leaf}`;
  // Wan 2.1 counts through all levels; the encoder's list is flat in Diffusers as well
  if (coder === "encoder") return `${coder}.${list}.${level}.${inBlock(rest as string)}`;
  return `${coder}.${list}.${Number(level) * (numBlocks + 1) + place}.${leaf}`;
}

/** An open checkpoint, as a source of weights for `AutoencoderKLWan.load`. */
export class VaeCheckpoint implements WeightSource, Disposable {
  readonly config: VaeConfig;
  readonly keys: readonly string[];
  readonly exclusive = true;
  readonly #file: Checkpoint;
  readonly #isOriginal: boolean;

  constructor(path: string) {
    needSafetensors(path, "VAE", "MODEL/vae");
    const stated = statedBeside(path, VaeConfig);
    this.#file = openCheckpoint(path);
    try {
      this.#isOriginal = this.#file.has("conv2.weight");
      if (!this.#isOriginal && !this.#file.has("post_quant_conv.weight"))
        throw new WaverError("checkpoint_invalid", `${path} holds no Wan VAE: neither Diffusers' names nor Wan's own`, {
          hint: `it holds ${this.#file.keys.slice(0, 3).join(", ")}${this.#file.keys.length > 3 ? ", ..." : ""}`,
        });
      this.keys = this.#file.keys;
      this.config = stated ?? this.#published(path);
    } catch (error) {
      this.#file.dispose();
      throw error;
    }
  }

  /** The file's name of a weight of ours. */
  readonly rename = (name: string): string => (this.#isOriginal ? originalName(name, this.config) : name);

  info(key: string): { dtype: DType; shape: readonly number[] } {
    return this.#file.info(key);
  }

  get(key: string): Tensor {
    return this.#file.get(key);
  }

  /** What the weights take in memory, as stored or in another dtype. */
  bytes(dtype?: DType): number {
    return this.keys.reduce((sum, key) => {
      const { dtype: stored, shape } = this.info(key);
      return sum + itemSize(dtype ?? stored) * shape.reduce((a, b) => a * b, 1);
    }, 0);
  }

  [Symbol.dispose](): void {
    this.#file.dispose();
  }

  /** Without a config.json: what was published with so many latent channels, in the widths of this file. */
  #published(path: string): VaeConfig {
    const [latents, first, last] = [
      ["conv2.weight", "post_quant_conv.weight"],
      ["encoder.conv1.weight", "encoder.conv_in.weight"],
      ["decoder.head.2.weight", "decoder.conv_out.weight"],
    ].map((names) => {
      const key = names.find((name) => this.#file.has(name));
      return key === undefined ? [] : this.info(key).shape;
    }) as [readonly number[], readonly number[], readonly number[]];
    const [z_dim, base_dim, in_channels, decoder_base_dim] = [latents[0], first[0], first[1], last[1]];
    const statistics = [WAN_2_1, WAN_2_2].find(({ latents_mean }) => latents_mean.length === z_dim);
    if (statistics === undefined)
      throw new WaverError("checkpoint_invalid", `${path}: the statistics of ${z_dim} latent channels are not known`, {
        hint: "put the VAE's config.json beside the file",
      });
    const isPatched = statistics === WAN_2_2;
    return VaeConfig.parse({
      ...statistics,
      ...{ z_dim, base_dim, decoder_base_dim, in_channels, out_channels: last[0] },
      ...(isPatched ? { is_residual: true, patch_size: 2 } : {}),
    });
  }
}

/** The configuration of a folder, without its weights. */
export function configOf(path: string): VaeConfig {
  const stated = existsSync(path) ? statedBeside(path, VaeConfig) : undefined;
  if (stated !== undefined) return stated;
  throw new WaverError("checkpoint_missing", `${path} holds neither weights nor a config.json`);
}
