/** Folders of SigLIP in Transformers' layout: the vision tower, or both, from whichever holds it. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
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
import { Siglip, SiglipVision } from "./model.ts";
import { SiglipConfig, VisionConfig } from "./params.ts";

export interface Settings {
  readonly device: Device;
  readonly dtype?: DType | undefined;
}

const Kind = z.object({ architectures: z.array(z.string()).nullish(), model_type: z.string().nullish() });

interface Folder {
  readonly vision: VisionConfig;
  /** Absent where the folder holds the vision tower alone. */
  readonly whole: SiglipConfig | undefined;
}

export function readConfig(folder: string): Folder {
  const path = join(folder, "config.json");
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} holds no config.json`, {
      hint: "path must name the folder of a SigLIP model",
    });
  const file: unknown = JSON.parse(readFileSync(path, "utf8"));
  const { architectures, model_type } = parse(Kind, file, path);
  const name = architectures?.[0] ?? model_type ?? "";
  // Siglip2Model of variable resolution is another network; Siglip 2 of fixed resolution calls itself SiglipModel
  if (!/^siglip(?!2)/i.test(name))
    throw new WaverError(
      "checkpoint_invalid",
      `${path} describes ${name === "" ? "no model" : `a ${name}`}, not SigLIP`,
    );
  if (typeof file !== "object" || file === null || !("vision_config" in file))
    return { vision: parse(VisionConfig, file, path), whole: undefined };
  const whole = parse(SiglipConfig, { text_config: {}, ...file }, path);
  return { vision: whole.vision_config, whole };
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
  const keys = isBare ? file.keys.map((key) => tower + key) : file.keys.filter((key) => key.startsWith(tower));
  return {
    keys: keys.filter(isWeight),
    get: (key) => file.get(at(key)),
    info: (key) => file.info(at(key)),
    exclusive: true,
  };
}

/** Bytes of the vision tower's weights, from the headers alone. */
export function visionBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  const weights = visionOf(file);
  return weights.keys.reduce((sum, key) => {
    const { bytes, shape } = weights.info(key);
    return sum + (dtype === undefined ? bytes : itemSize(dtype) * shape.reduce((a, b) => a * b, 1));
  }, 0);
}

export function loadVision(folder: string, settings: Settings): { model: SiglipVision; config: VisionConfig } {
  const { vision: config } = readConfig(folder);
  using file = openCheckpoint(folder);
  return { model: new SiglipVision(config).load(visionOf(file), settings), config };
}

/** Both towers. */
export function loadSiglip(folder: string, settings: Settings): { model: Siglip; config: SiglipConfig } {
  const { whole } = readConfig(folder);
  if (whole === undefined)
    throw new WaverError(
      "checkpoint_invalid",
      `${folder} holds SigLIP's vision tower alone; texts need the whole model`,
    );
  using file = openCheckpoint(folder);
  return { model: new Siglip(whole).load(allOf(file), settings), config: whole };
}

/** How images reach the tower: SiglipImageProcessor squeezes them into a square. */
export function imageSettings(folder: string, { image_size }: VisionConfig): ImageSettings {
  return readPreprocessor([folder], {
    resize: { height: image_size, width: image_size },
    resample: "bicubic",
    crop: null,
    rescale: 1 / 255,
    normalize: { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] },
  });
}
