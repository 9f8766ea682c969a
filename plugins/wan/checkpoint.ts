/**
 * A Wan DiT on disk, in any of the layouts it is published in: Diffusers' folder (one file or shards), Wan's own folder, or
 * a single file, under Diffusers' names, Wan's own, or Wan's own behind ComfyUI's prefix; float8 with or without scales.
 *
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
import { WaverError, type z } from "../index.ts";
import { keepsFloat32, OriginalConfig, WanConfig } from "./params.ts";

/** Names inside a block, ours to Wan's; the second and third norm stand the other way round. */
const IN_BLOCK: readonly (readonly [string, string])[] = [
  ["scale_shift_table", "modulation"],
  ["attn1.", "self_attn."],
  ["attn2.", "cross_attn."],
  ["to_out.0.", "o."],
  ["to_q.", "q."],
  ["to_k.", "k."],
  ["to_v.", "v."],
  ["add_k_proj.", "k_img."],
  ["add_v_proj.", "v_img."],
  ["norm_added_k.", "norm_k_img."],
  ["norm2.", "norm3."],
  ["ffn.net.0.proj.", "ffn.0."],
  ["ffn.net.2.", "ffn.2."],
];

/** Names outside the blocks, ours to Wan's. */
const OUTSIDE: readonly (readonly [string, string])[] = [
  ["condition_embedder.time_embedder.linear_1.", "time_embedding.0."],
  ["condition_embedder.time_embedder.linear_2.", "time_embedding.2."],
  ["condition_embedder.time_proj.", "time_projection.1."],
  ["condition_embedder.text_embedder.linear_1.", "text_embedding.0."],
  ["condition_embedder.text_embedder.linear_2.", "text_embedding.2."],
  ["condition_embedder.image_embedder.norm1.", "img_emb.proj.0."],
  ["condition_embedder.image_embedder.ff.net.0.proj.", "img_emb.proj.1."],
  ["condition_embedder.image_embedder.ff.net.2.", "img_emb.proj.3."],
  ["condition_embedder.image_embedder.norm2.", "img_emb.proj.4."],
  ["condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"],
  ["scale_shift_table", "head.modulation"],
  ["proj_out.", "head.head."],
];

/** A weight of the network under the name that Wan's own files give it. */
export function originalName(name: string): string {
  const [, block, rest] = name.match(/^(blocks\.\d+\.)(.*)$/) ?? [];
  if (block === undefined) {
    const [ours, theirs] = OUTSIDE.find(([ours]) => name.startsWith(ours)) ?? ["", ""];
    return theirs + name.slice(ours.length);
  }
  return block + IN_BLOCK.reduce((at, [ours, theirs]) => at.replace(ours, theirs), rest as string);
}

/** A layer of the network under the name that Wan's own files give it. */
export const originalLayer = (name: string): string => originalName(`${name}.`).slice(0, -1);

/** Prefixes that programs put before a network's names (ComfyUI, training frameworks). */
const PREFIXES = ["", "model.diffusion_model.", "diffusion_model.", "model."];
/** Every published Wan has heads of this width. */
const HEAD_DIM = 128;
/** What a float8 file becomes: no product here reads float8. */
const WIDENED: DType = "bfloat16";
const FLOATS: ReadonlySet<DType> = new Set(["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]);
const isFloat8 = (dtype: DType): boolean => dtype.startsWith("float8");
/** Beside a float8 `weight`: what it is to be multiplied by, as ComfyUI and others spell it. */
const SCALES = ["scale_weight", "weight_scale"];
const SCALE = /\.(scale_weight|weight_scale|scale_input|input_scale)$|^scaled_fp8$/;

/** An open checkpoint, as a source of weights for `WanTransformer.load`. */
export class WanCheckpoint implements WeightSource, Disposable {
  readonly config: WanConfig;
  readonly keys: readonly string[];
  readonly exclusive = true;
  readonly #file: Checkpoint;
  readonly #prefix: string;
  readonly #isOriginal: boolean;

  constructor(path: string) {
    needSafetensors(path, "checkpoint", "MODEL/transformer");
    const stated = statedConfig(path);
    this.#file = openCheckpoint(path);
    try {
      const { prefix, isOriginal } = namingOf(this.#file, path);
      this.#prefix = prefix;
      this.#isOriginal = isOriginal;
      this.keys = this.#file.keys.filter((key) => key.startsWith(prefix) && !SCALE.test(key.slice(prefix.length)));
      const odd = this.keys.find((key) => !FLOATS.has(this.info(key).dtype));
      if (odd !== undefined)
        throw new WaverError("checkpoint_invalid", `${path}: ${odd} is stored as ${this.info(odd).dtype}`, {
          hint: "use the float32, float16, bfloat16 or float8 file of this model",
        });
      this.config = stated?.form === "diffusers" ? stated.config : this.#infer(path, stated?.config);
    } catch (error) {
      this.#file.dispose();
      throw error;
    }
  }

  /** The file's name of a weight of ours. */
  readonly rename = (name: string): string => this.#prefix + (this.#isOriginal ? originalName(name) : name);

  info(key: string): { dtype: DType; shape: readonly number[] } {
    return this.#file.info(key);
  }

  get(key: string): Tensor {
    const stored = this.#file.get(key);
    if (!isFloat8(stored.dtype)) return stored;
    const scale = this.#scaleOf(key);
    if (scale === undefined) return stored.to(WIDENED);
    return stored.to("float32").mul(this.#file.get(scale).to("float32")).to(WIDENED);
  }

  #scaleOf(key: string): string | undefined {
    return SCALES.map((name) => key.replace(/weight$/, name)).find((name) => this.#file.has(name));
  }
  prefetch(key: string): void {
    this.#file.prefetch(key);
  }
  release(key: string): void {
    this.#file.release(key);
    const scale = this.#scaleOf(key);
    if (scale !== undefined) this.#file.release(scale);
  }

  /** What weights take in memory: those of `names` that the file has, as stored or in another dtype. */
  bytes(names: Iterable<string>, dtype?: DType): number {
    let sum = 0;
    for (const name of names) {
      const key = this.rename(name);
      if (!this.#file.has(key)) continue;
      const { dtype: stored, shape } = this.info(key);
      const as = dtype === undefined ? (isFloat8(stored) ? WIDENED : stored) : keepsFloat32(name) ? "float32" : dtype;
      sum += itemSize(as) * shape.reduce((a, b) => a * b, 1);
    }
    return sum;
  }

  [Symbol.dispose](): void {
    this.#file.dispose();
  }

  /** The configuration that the weights' own shapes tell; heads and eps leave no trace in them. */
  #infer(path: string, stated: OriginalConfig | undefined): WanConfig {
    const shape = (name: string): readonly number[] | undefined => {
      const key = this.rename(name);
      return this.#file.has(key) ? this.info(key).shape : undefined;
    };
    const side = (name: string, axis: number): number => {
      const found = shape(name)?.[axis];
      if (found !== undefined) return found;
      throw new WaverError(
        "checkpoint_invalid",
        `${path} lacks ${this.rename(name)}, without which it is no Wan model`,
      );
    };
    const patch = shape("patch_embedding.weight");
    const width = side("patch_embedding.weight", 0);
    const numLayers = 1 + Math.max(-1, ...this.keys.map((key) => Number(/\bblocks\.(\d+)\./.exec(key)?.[1] ?? -1)));
    if (stated === undefined && width % HEAD_DIM !== 0)
      throw new WaverError("checkpoint_invalid", `${path}: a width of ${width} does not tell the number of heads`, {
        hint: "put the model's config.json beside the file",
      });
    if (stated !== undefined && (stated.dim !== width || stated.num_layers !== numLayers))
      throw new WaverError(
        "checkpoint_mismatch",
        `${path} holds ${numLayers} layers of width ${width}, its config.json says ${stated.num_layers} of ${stated.dim}`,
      );
    const heads = stated?.num_heads ?? width / HEAD_DIM;
    const image = shape("condition_embedder.image_embedder.norm1.weight")?.[0];
    return WanConfig.parse({
      patch_size: patch?.slice(2),
      num_attention_heads: heads,
      attention_head_dim: width / heads,
      in_channels: side("patch_embedding.weight", 1),
      out_channels: side("proj_out.weight", 0) / (patch?.slice(2).reduce((a, b) => a * b, 1) ?? 1),
      text_dim: side("condition_embedder.text_embedder.linear_1.weight", 1),
      freq_dim: side("condition_embedder.time_embedder.linear_1.weight", 1),
      ffn_dim: side("blocks.0.ffn.net.0.proj.weight", 0),
      num_layers: numLayers,
      cross_attn_norm: shape("blocks.0.norm2.weight") !== undefined,
      eps: stated?.eps ?? 1e-6,
      image_dim: image,
      added_kv_proj_dim: image === undefined ? undefined : width,
      pos_embed_seq_len: shape("condition_embedder.image_embedder.pos_embed")?.[1],
    });
  }
}

/** Which of the known names a file uses, by the one weight that every Wan model has under them. */
function namingOf(file: Checkpoint, path: string): { prefix: string; isOriginal: boolean } {
  const probe = "condition_embedder.time_proj.weight";
  for (const isOriginal of [false, true])
    for (const prefix of PREFIXES)
      if (file.has(prefix + (isOriginal ? originalName(probe) : probe))) return { prefix, isOriginal };
  throw new WaverError(
    "checkpoint_invalid",
    `${path} holds no Wan transformer: neither Diffusers' names nor Wan's own`,
    {
      hint: `it holds ${file.keys.slice(0, 3).join(", ")}${file.keys.length > 3 ? ", ..." : ""}`,
    },
  );
}

const Original = OriginalConfig.transform((config) => ({ form: "original" as const, config }));
const Diffusers = WanConfig.transform((config) => ({ form: "diffusers" as const, config }));

/** The config.json of a folder, or the one beside a file if it is a Wan transformer's. */
const statedConfig = (path: string): z.output<typeof Original | typeof Diffusers> | undefined =>
  statedBeside<typeof Original | typeof Diffusers>(path, Original, Diffusers);

/** The configuration of a folder in Diffusers' layout, without its weights. */
export function configOf(path: string): WanConfig {
  const stated = existsSync(path) ? statedConfig(path) : undefined;
  if (stated?.form === "diffusers") return stated.config;
  throw new WaverError("checkpoint_missing", `${path} holds neither weights nor a config.json in Diffusers' form`);
}
