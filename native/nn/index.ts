export * from "./attention.ts";
export {
  type BlockKeeper,
  type BlockPolicy,
  type BlockStretch,
  type Shortcut,
  setBlockKeeper,
  setBlockPolicy,
  throughBlocks,
  withBlockPolicy,
  withShortcut,
} from "./blocks.ts";
export { KVCache } from "./cache.ts";
export * from "./decoder.ts";
export * from "./encoder.ts";
export { ImageFeatures, type Placement, unit, visionTowerOf, wholeOf } from "./features.ts";
export * from "./fused.ts";
export { withoutFusion } from "./fusion.ts";
export * from "./generate.ts";
export { type ImageSettings, joinedImages, type PackedImages, packedImages, preprocessImages } from "./images.ts";
export * from "./init.ts";
export * from "./layers.ts";
export * from "./linear.ts";
export { Adaptable, fused, type LowRank, withLowRank } from "./lowrank.ts";
export { type LoadOptions, Module, type WeightSource } from "./module.ts";
export { offloadedBytes, PinnedBlocks } from "./offload.ts";
export { Parameter } from "./parameter.ts";
export { type PatchGrid, type PatchSettings, patchify, smartResize } from "./patches.ts";
export { dequantised, float8Linear, formFor, quantisable, quantised, type WeightForm } from "./quantised.ts";
export { remembered } from "./remembered.ts";
export {
  applyRopeHalves,
  applyRopeInterleaved,
  type HeadLayout,
  type RopeGrid,
  type RopeTable,
  rope3d,
  ropeAxes,
  ropeOfPatches,
  ropeTable,
} from "./rope.ts";
export {
  overTokens,
  type TokenPattern,
  type TokenPolicy,
  type TokenSpread,
  type TokenWindows,
  tokenAttention,
  withTokenPolicy,
} from "./tokens.ts";
