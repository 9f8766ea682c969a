export * from "./attention.ts";
export * from "./init.ts";
export * from "./layers.ts";
export { type LoadOptions, Module, type WeightSource } from "./module.ts";
export { Parameter } from "./parameter.ts";
export * from "./rope.ts";
