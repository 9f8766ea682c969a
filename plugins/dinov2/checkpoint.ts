/** Folders of DINOv2 in Transformers' layout: the bare model, or one with a classifier that is left behind. */
import {
  bytesOf,
  type Checkpoint,
  type DType,
  type ImageSettings,
  openCheckpoint,
  type Placement,
  type Weights,
  weightsOf,
} from "../../native/index.ts";
import { readPreprocessor } from "../index.ts";
import { readJson } from "../language.ts";
import { Dinov2 } from "./model.ts";
import { Dinov2Config } from "./params.ts";

/** Mean and deviation of ImageNet, which all published weights were trained with. */
export const MEAN = [0.485, 0.456, 0.406] as const;
export const STD = [0.229, 0.224, 0.225] as const;

export const readConfig = (folder: string): Dinov2Config =>
  readJson(folder, "config.json", Dinov2Config, "a DINOv2 model");

/** A classifier's checkpoint has the network under its own name and a head beside it. */
function networkOf(file: Checkpoint): Weights {
  const names = ["", "dinov2.", "dinov2_with_registers."];
  const prefix = names.find((name) => file.has(`${name}embeddings.cls_token`)) ?? "";
  return weightsOf(file, (key) => (key.startsWith(prefix) ? key.slice(prefix.length) : undefined));
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(networkOf(file), dtype);
}

export function loadDinov2(folder: string, settings: Placement): { model: Dinov2; config: Dinov2Config } {
  const config = readConfig(folder);
  using file = openCheckpoint(folder);
  return { model: new Dinov2(config).load(networkOf(file), settings), config };
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
