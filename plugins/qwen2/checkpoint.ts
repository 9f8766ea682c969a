/** Checkpoint folders of Transformers: which weights a decoder and its head take, and what they weigh. */
import {
  bytesOf,
  CausalDecoder,
  type Checkpoint,
  type Device,
  type DType,
  formFor,
  offloadedBytes,
  openCheckpoint,
  type WeightForm,
  type Weights,
  weightsOf,
} from "../../native/index.ts";
import { CausalLM } from "./model.ts";
import { readConfig } from "./params.ts";

export interface Placement {
  readonly device: Device;
  readonly dtype?: DType | undefined;
  /** What most weights of the layers are kept in. */
  readonly weights?: WeightForm | undefined;
  /** Weights of the layers are on the device around their turns only. */
  readonly offload?: boolean | undefined;
}

/** Tables that older checkpoints store and that follow from the configuration. */
const DERIVED = /rotary_emb\.inv_freq$/;
const HEAD = "lm_head.weight";

/** The whole model; a tied head is the embedding, though some writers store it too. */
const wholeOf = (file: Checkpoint, tied: boolean): Weights =>
  weightsOf(file, (key) => (DERIVED.test(key) || (tied && key === HEAD) ? undefined : key));

/** The decoder, below `model.`, or bare where only a Qwen2Model was saved. */
const decoderOf = (file: Checkpoint): Weights & Disposable =>
  weightsOf(file, (key) => (DERIVED.test(key) || key === HEAD ? undefined : key.replace(/^model\./, "")));

export function loadModel(folder: string, placement: Placement): CausalLM {
  const config = readConfig(folder);
  using file = openCheckpoint(folder);
  return new CausalLM(config).load(wholeOf(file, config.tie_word_embeddings), placement);
}

/** The decoder alone, for its states. */
export function loadDecoder(folder: string, { dtype, device, weights, offload = false }: Placement): CausalDecoder {
  const decoder = new CausalDecoder(readConfig(folder));
  const how = { device, weights: formFor(decoder, weights), offload, ...(dtype === undefined ? {} : { dtype }) };
  return decoder.loadFrom(decoderOf(openCheckpoint(folder)), how);
}

/** Bytes of the weights, from the headers alone. */
export function weightBytes(folder: string, what: { head: boolean }, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(what.head ? wholeOf(file, readConfig(folder).tie_word_embeddings) : decoderOf(file), dtype);
}

/** Of a decoder alone, those that are on the device at a time where its layers come and go. */
export function offloadedDecoderBytes(folder: string, dtype?: DType): number {
  using weights = decoderOf(openCheckpoint(folder));
  const { info } = weights;
  return offloadedBytes(new CausalDecoder(readConfig(folder)), (_, name) => bytesOf({ keys: [name], info }, dtype));
}
