export * from "./attention.ts";
export * from "./fused.ts";
export { withoutFusion } from "./fusion.ts";
export { type ImageSettings, preprocessImages } from "./images.ts";
export * from "./init.ts";
export * from "./layers.ts";
export { Adaptable, fused, type LowRank, withLowRank } from "./lowrank.ts";
export { type LoadOptions, Module, type WeightSource } from "./module.ts";
export { Parameter } from "./parameter.ts";
export {
  applyRopeInterleaved,
  type HeadLayout,
  type RopeGrid,
  type RopeTable,
  rope3d,
  ropeAxes,
  ropeTable,
} from "./rope.ts";
