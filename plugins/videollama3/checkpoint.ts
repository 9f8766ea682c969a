/** Checkpoint folders in Transformers' layout. */
import {
  bytesOf,
  type Checkpoint,
  type Device,
  type DType,
  openCheckpoint,
  type Weights,
  weightsOf,
} from "../../native/index.ts";
import { VideoLlama3 } from "./model.ts";
import { readConfig, type VideoLlama3Config } from "./params.ts";

/** Some writers store a tied head beside the embedding. */
const partsOf = (file: Checkpoint, { text }: VideoLlama3Config): Weights =>
  weightsOf(file, (key) => (text.tie_word_embeddings && key === "lm_head.weight" ? undefined : key));

export function loadModel(folder: string, settings: { device: Device; dtype?: DType | undefined }): VideoLlama3 {
  const config = readConfig(folder);
  using file = openCheckpoint(folder);
  return new VideoLlama3(config).load(partsOf(file, config), settings);
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(partsOf(file, readConfig(folder)), dtype);
}
