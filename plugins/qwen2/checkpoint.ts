/** Checkpoint folders of Transformers: which weights a decoder and its head take, and what they weigh. */
import {
  CausalDecoder,
  type Checkpoint,
  type Device,
  type DType,
  itemSize,
  openCheckpoint,
  type WeightSource,
} from "../../native/index.ts";
import { CausalLM } from "./model.ts";
import { readConfig } from "./params.ts";

export interface Placement {
  readonly device: Device;
  readonly dtype?: DType | undefined;
}

/** Tables that older checkpoints store and that follow from the configuration. */
const DERIVED = /rotary_emb\.inv_freq$/;

/** Keys of the decoder (below `model.`, or bare where only a Qwen2Model was saved) and of the head unless it is tied or unwanted. */
function weightsOf(file: Checkpoint, what: { head: boolean }): WeightSource & { keys: string[] } {
  const keys = file.keys.filter((key) => !DERIVED.test(key) && (what.head || key !== "lm_head.weight"));
  return { keys, exclusive: true, get: (key) => file.get(key), info: (key) => file.info(key) };
}

const prefixOf = (file: Checkpoint): string => (file.has("embed_tokens.weight") ? "" : "model.");

export function loadModel(folder: string, { device, dtype }: Placement): CausalLM {
  const config = readConfig(folder);
  const model = new CausalLM(config);
  using file = openCheckpoint(folder);
  return model.load(weightsOf(file, { head: !config.tie_word_embeddings }), {
    device,
    ...(dtype === undefined ? {} : { dtype }),
  });
}

/** The decoder alone, for its states. */
export function loadDecoder(folder: string, { device, dtype }: Placement): CausalDecoder {
  const decoder = new CausalDecoder(readConfig(folder));
  using file = openCheckpoint(folder);
  const prefix = prefixOf(file);
  return decoder.load(weightsOf(file, { head: false }), {
    device,
    rename: (name) => prefix + name,
    ...(dtype === undefined ? {} : { dtype }),
  });
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, what: { head: boolean }, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return weightsOf(file, what).keys.reduce((sum, key) => {
    const { bytes, shape } = file.info(key);
    return sum + (dtype === undefined ? bytes : itemSize(dtype) * shape.reduce((a, b) => a * b, 1));
  }, 0);
}
