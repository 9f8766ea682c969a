export { type Degrees, degreesFor, Mesh, type SequenceMode } from "./mesh.ts";
export { type SequenceOptions, SequenceParallel, stretches } from "./sequence.ts";
export { ShardedWeights } from "./shard.ts";
export { passBytes, type SequenceTraffic, sequenceBytes, shardBytes } from "./traffic.ts";
