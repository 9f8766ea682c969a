/** CLIP's vision tower or whole model: folders in Transformers' layout, and single files of the tower (`original.ts`). */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  bytesOf,
  type Checkpoint,
  type DType,
  type ImageSettings,
  openCheckpoint,
  type Placement,
  visionTowerOf,
  type Weights,
  wholeOf,
} from "../../native/index.ts";
import { readPreprocessor, WaverError, z } from "../index.ts";
import { readJson } from "../language.ts";
import { Clip, ClipVision } from "./model.ts";
import { isOriginal, knownTower, originalVision } from "./original.ts";
import { ClipConfig, VisionConfig } from "./params.ts";

/** Radford et al. 2021: mean and deviation of the training images. */
const MEAN = [0.48145466, 0.4578275, 0.40821073];
const STD = [0.26862954, 0.26130258, 0.27577711];

const Kind = z.object({
  architectures: z.array(z.string()).nullish(),
  model_type: z.string().nullish(),
  vision_config: z.unknown().optional(),
  vision_config_dict: z.unknown().optional(),
});

interface Folder {
  readonly vision: VisionConfig;
  /** Absent where the folder holds the vision tower alone. */
  readonly whole: ClipConfig | undefined;
}

const whose = "a CLIP model, for instance MODEL/image_encoder";

export function readConfig(folder: string): Folder {
  const read = <S extends z.ZodType>(schema: S): z.output<S> => readJson(folder, "config.json", schema, whose);
  const { architectures, model_type, vision_config, vision_config_dict } = read(Kind);
  const name = architectures?.[0] ?? model_type ?? "";
  if (!/^clip/i.test(name))
    throw new WaverError(
      "checkpoint_invalid",
      `${folder} holds ${name === "" ? "no model that is named" : `a ${name}`}, not CLIP`,
    );
  if (vision_config == null && vision_config_dict == null) return { vision: read(VisionConfig), whole: undefined };
  const whole = read(ClipConfig);
  return { vision: { ...whole.vision, projection_dim: whole.projection_dim }, whole };
}

/** The folder itself, or a file's. */
const folderOf = (path: string): string => (path.endsWith(".safetensors") ? dirname(path) : path);

const PROJECTION = "visual_projection.weight";

/** The vision tower's part of a file. */
const visionOf = (file: Checkpoint): Weights =>
  isOriginal(file) ? originalVision(file) : visionTowerOf(file, PROJECTION);

/** Bytes of the vision tower's weights, from the headers alone. */
export function visionBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(visionOf(file), dtype);
}

/** Bytes of both towers' weights. */
export function wholeBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(wholeOf(file), dtype);
}

/** The vision tower of a folder or a file, with its projection where there is one. */
export function loadVision(folder: string, settings: Placement): { model: ClipVision; config: VisionConfig } {
  using file = openCheckpoint(folder);
  const weights = visionOf(file);
  const beside = folderOf(folder);
  const config = existsSync(join(beside, "config.json")) ? readConfig(beside).vision : knownTower(weights, folder);
  const model = new ClipVision(config, weights.keys.includes(PROJECTION));
  return { model: model.load(weights, settings), config };
}

/** Both towers. */
export function loadClip(folder: string, settings: Placement): { model: Clip; config: ClipConfig } {
  const { whole } = readConfig(folder);
  if (whole === undefined)
    throw new WaverError("checkpoint_invalid", `${folder} holds CLIP's vision tower alone; texts need the whole model`);
  using file = openCheckpoint(folder);
  return { model: new Clip(whole).load(wholeOf(file), settings), config: whole };
}

/** How images reach the tower: the folder's own processor, or the one beside it in a pipeline (MODEL/image_processor). */
export function imageSettings(folder: string, { image_size }: VisionConfig): ImageSettings {
  return readPreprocessor([folderOf(folder), join(dirname(folderOf(folder)), "image_processor")], {
    resize: { shortestEdge: image_size },
    resample: "bicubic",
    crop: { height: image_size, width: image_size },
    rescale: 1 / 255,
    normalize: { mean: MEAN, std: STD },
  });
}
