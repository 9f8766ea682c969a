/** Weights of torchvision's RAFT as safetensors: a file, or a folder that holds one. */
import { type Device, openCheckpoint } from "../../native/index.ts";
import { Raft } from "./model.ts";
import { readShape } from "./params.ts";

/** Counters of batch norm, which only training needs. */
const isWeight = (key: string): boolean => !key.endsWith(".num_batches_tracked");

export function loadRaft(path: string, device: Device): Raft {
  using file = openCheckpoint(path);
  return new Raft(readShape(file, path)).load(
    { keys: file.keys.filter(isWeight), get: (key) => file.get(key), info: (key) => file.info(key), exclusive: true },
    { device, dtype: "float32" },
  );
}

/** Bytes of the weights, from the header alone. */
export function weightBytes(path: string): number {
  using file = openCheckpoint(path);
  return file.keys.filter(isWeight).reduce((sum, key) => sum + file.info(key).bytes, 0);
}
