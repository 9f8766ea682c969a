/** Checkpoint folders of Transformers: published keys, and those that transformers 4.52 to 4.57 wrote. */
import { type Device, type DType, itemSize, openCheckpoint } from "../../native/index.ts";
import { Qwen25VL } from "./model.ts";
import { readConfig } from "./params.ts";

export function loadModel(folder: string, { device, dtype }: { device: Device; dtype?: DType | undefined }): Qwen25VL {
  const config = readConfig(folder);
  const model = new Qwen25VL(config);
  using file = openCheckpoint(folder);
  const nested = file.has("model.language_model.embed_tokens.weight");
  const rename = (name: string): string =>
    nested ? name.replace(/^model\./, "model.language_model.").replace(/^visual\./, "model.visual.") : name;
  // stored beside a tied embedding by some writers
  const keys = file.keys.filter((key) => !(config.text.tie_word_embeddings && key === "lm_head.weight"));
  const source = { keys, exclusive: true, get: (key: string) => file.get(key), info: (key: string) => file.info(key) };
  return model.load(source, { device, rename, ...(dtype === undefined ? {} : { dtype }) });
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return file.keys.reduce((sum, key) => {
    const { bytes, shape } = file.info(key);
    return sum + (dtype === undefined ? bytes : itemSize(dtype) * shape.reduce((a, b) => a * b, 1));
  }, 0);
}
