/** Checkpoint folders in Transformers' layout. */
import { type Device, type DType, itemSize, openCheckpoint } from "../../native/index.ts";
import { VideoLlama3 } from "./model.ts";
import { readConfig } from "./params.ts";

export function loadModel(
  folder: string,
  { device, dtype }: { device: Device; dtype?: DType | undefined },
): VideoLlama3 {
  const config = readConfig(folder);
  const model = new VideoLlama3(config);
  using file = openCheckpoint(folder);
  // stored beside a tied embedding by some writers
  const keys = file.keys.filter((key) => !(config.text.tie_word_embeddings && key === "lm_head.weight"));
  const source = { keys, exclusive: true, get: (key: string) => file.get(key), info: (key: string) => file.info(key) };
  return model.load(source, { device, ...(dtype === undefined ? {} : { dtype }) });
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return file.keys.reduce((sum, key) => {
    const { bytes, shape } = file.info(key);
    return sum + (dtype === undefined ? bytes : itemSize(dtype) * shape.reduce((a, b) => a * b, 1));
  }, 0);
}
