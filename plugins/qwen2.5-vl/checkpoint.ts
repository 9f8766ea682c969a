/** Checkpoint folders of Transformers: published keys, and those that transformers 4.52 to 4.57 wrote. */
import {
  bytesOf,
  type Checkpoint,
  type Device,
  type DType,
  openCheckpoint,
  type Weights,
  weightsOf,
} from "../../native/index.ts";
import { Qwen25VL } from "./model.ts";
import { readConfig, type VLConfig } from "./params.ts";

function partsOf(file: Checkpoint, { text }: VLConfig): Weights {
  const nested = file.has("model.language_model.embed_tokens.weight");
  return weightsOf(file, (key) => {
    // stored beside a tied embedding by some writers
    if (text.tie_word_embeddings && key === "lm_head.weight") return undefined;
    return nested ? key.replace(/^model\.language_model\./, "model.").replace(/^model\.visual\./, "visual.") : key;
  });
}

export function loadModel(folder: string, settings: { device: Device; dtype?: DType | undefined }): Qwen25VL {
  const config = readConfig(folder);
  using file = openCheckpoint(folder);
  return new Qwen25VL(config).load(partsOf(file, config), settings);
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(partsOf(file, readConfig(folder)), dtype);
}
