/** Weights of torchvision's RAFT as safetensors: a file, or a folder that holds one. */
import { bytesOf, type Checkpoint, type Device, openCheckpoint, type Weights, weightsOf } from "../../native/index.ts";
import { Raft } from "./model.ts";
import { readShape } from "./params.ts";

/** Without the counters of batch norm, which only training needs. */
const networkOf = (file: Checkpoint): Weights =>
  weightsOf(file, (key) => (key.endsWith(".num_batches_tracked") ? undefined : key));

export function loadRaft(path: string, device: Device): Raft {
  using file = openCheckpoint(path);
  return new Raft(readShape(file, path)).load(networkOf(file), { device, dtype: "float32" });
}

/** Bytes of the weights, from the header alone. */
export function weightBytes(path: string): number {
  using file = openCheckpoint(path);
  return bytesOf(networkOf(file), "float32");
}
