/** Folders of DINOv2 in Transformers' layout: the bare model, or one with a classifier that is left behind. */
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
import { Dinov2 } from "./model.ts";
import { Dinov2Config } from "./params.ts";

export interface Settings {
  readonly device: Device;
  readonly dtype?: DType | undefined;
}

/** Mean and deviation of ImageNet, which all published weights were trained with. */
export const MEAN = [0.485, 0.456, 0.406] as const;
export const STD = [0.229, 0.224, 0.225] as const;

export function readConfig(folder: string): Dinov2Config {
  const path = join(folder, "config.json");
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} holds no config.json`, {
      hint: "path must name the folder of a DINOv2 model",
    });
  const parsed = Dinov2Config.safeParse(JSON.parse(readFileSync(path, "utf8")));
  if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

interface Weights extends WeightSource {
  readonly keys: string[];
  info(key: string): TensorInfo;
}

/** A classifier's checkpoint has the network under its own name and a head beside it. */
function weightsOf(file: Checkpoint): Weights {
  const prefix =
    ["", "dinov2.", "dinov2_with_registers."].find((each) => file.has(`${each}embeddings.cls_token`)) ?? "";
  return {
    keys: file.keys.filter((key) => key.startsWith(prefix)).map((key) => key.slice(prefix.length)),
    get: (key) => file.get(prefix + key),
    info: (key) => file.info(prefix + key),
    exclusive: true,
  };
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  const weights = weightsOf(file);
  return weights.keys.reduce((sum, key) => {
    const { bytes, shape } = weights.info(key);
    return sum + (dtype === undefined ? bytes : itemSize(dtype) * shape.reduce((a, b) => a * b, 1));
  }, 0);
}

export function loadDinov2(folder: string, settings: Settings): { model: Dinov2; config: Dinov2Config } {
  const config = readConfig(folder);
  using file = openCheckpoint(folder);
  return { model: new Dinov2(config).load(weightsOf(file), settings), config };
}

/** How images reach the network: BitImageProcessor shrinks to 256 and cuts 224 (224 / 0.875) in the published files. */
export const imageSettings = (folder: string): ImageSettings =>
  readPreprocessor([folder], {
    resize: { shortestEdge: 256 },
    resample: "bicubic",
    crop: { height: 224, width: 224 },
    rescale: 1 / 255,
    normalize: { mean: MEAN, std: STD },
  });
