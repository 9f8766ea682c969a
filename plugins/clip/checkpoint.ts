/** Folders of CLIP in Transformers' layout: either vision tower, or the whole model, from any of them that holds it. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  type Checkpoint,
  type Device,
  type DType,
  type ImageSettings,
  itemSize,
  openCheckpoint,
  type TensorInfo,
  type WeightSource,
} from "../../native/index.ts";
import { readPreprocessor, WaverError, z } from "../index.ts";
import { Clip, ClipVision } from "./model.ts";
import { ClipConfig, VisionConfig } from "./params.ts";

export interface Settings {
  readonly device: Device;
  readonly dtype?: DType | undefined;
}

/** Radford et al. 2021: mean and deviation of the training images. */
const MEAN = [0.48145466, 0.4578275, 0.40821073];
const STD = [0.26862954, 0.26130258, 0.27577711];

const Kind = z.object({ architectures: z.array(z.string()).nullish(), model_type: z.string().nullish() });

interface Folder {
  readonly vision: VisionConfig;
  /** Absent where the folder holds the vision tower alone. */
  readonly whole: ClipConfig | undefined;
}

export function readConfig(folder: string): Folder {
  const path = join(folder, "config.json");
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} holds no config.json`, {
      hint: "path must name the folder of a CLIP model, for instance MODEL/image_encoder",
    });
  const file: unknown = JSON.parse(readFileSync(path, "utf8"));
  const { architectures, model_type } = parse(Kind, file, path);
  const name = architectures?.[0] ?? model_type ?? "";
  if (!/^clip/i.test(name))
    throw new WaverError("checkpoint_invalid", `${path} describes ${name === "" ? "no model" : `a ${name}`}, not CLIP`);
  const isWhole =
    typeof file === "object" && file !== null && ("vision_config" in file || "vision_config_dict" in file);
  if (!isWhole) return { vision: parse(VisionConfig, file, path), whole: undefined };
  const whole = parse(ClipConfig, file, path);
  return { vision: { ...whole.vision, projection_dim: whole.projection_dim }, whole };
}

function parse<S extends z.ZodType>(schema: S, value: unknown, path: string): z.output<S> {
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

/** Position ids are counters that older checkpoints store among the weights. */
const isWeight = (key: string): boolean => !key.endsWith(".position_ids");

interface Weights extends WeightSource {
  readonly keys: readonly string[];
  info(key: string): TensorInfo;
}

const allOf = (file: Checkpoint): Weights => ({
  keys: file.keys.filter(isWeight),
  get: (key) => file.get(key),
  info: (key) => file.info(key),
  exclusive: true,
});

/** The vision tower's part of a file. Transformers 5 stores a tower alone without the name that it has in the whole model. */
function visionOf(file: Checkpoint): Weights {
  const tower = "vision_model.";
  const isBare = file.has("embeddings.patch_embedding.weight");
  const at = (key: string): string => (isBare && key.startsWith(tower) ? key.slice(tower.length) : key);
  const keys = isBare
    ? file.keys.map((key) => (key === "visual_projection.weight" ? key : tower + key))
    : file.keys.filter((key) => key.startsWith(tower) || key === "visual_projection.weight");
  return {
    keys: keys.filter(isWeight),
    get: (key) => file.get(at(key)),
    info: (key) => file.info(at(key)),
    exclusive: true,
  };
}

const bytesOf = ({ keys, info }: Weights, dtype: DType | undefined): number =>
  keys.reduce((sum, key) => {
    const { bytes, shape } = info(key);
    return sum + (dtype === undefined ? bytes : itemSize(dtype) * shape.reduce((a, b) => a * b, 1));
  }, 0);

/** Bytes of the vision tower's weights, from the headers alone. */
export function visionBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(visionOf(file), dtype);
}

/** Bytes of both towers' weights. */
export function wholeBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(allOf(file), dtype);
}

/** The vision tower of a folder, with its projection where the folder has one. */
export function loadVision(folder: string, settings: Settings): { model: ClipVision; config: VisionConfig } {
  const { vision: config } = readConfig(folder);
  using file = openCheckpoint(folder);
  const model = new ClipVision(config, file.has("visual_projection.weight"));
  return { model: model.load(visionOf(file), settings), config };
}

/** Both towers. */
export function loadClip(folder: string, settings: Settings): { model: Clip; config: ClipConfig } {
  const { whole } = readConfig(folder);
  if (whole === undefined)
    throw new WaverError("checkpoint_invalid", `${folder} holds CLIP's vision tower alone; texts need the whole model`);
  using file = openCheckpoint(folder);
  return { model: new Clip(whole).load(allOf(file), settings), config: whole };
}

/** How images reach the tower: the folder's own processor, or the one beside it in a pipeline (MODEL/image_processor). */
export function imageSettings(folder: string, { image_size }: VisionConfig): ImageSettings {
  return readPreprocessor([folder, join(dirname(folder), "image_processor")], {
    resize: { shortestEdge: image_size },
    resample: "bicubic",
    crop: { height: image_size, width: image_size },
    rescale: 1 / 255,
    normalize: { mean: MEAN, std: STD },
  });
}
