export { AdamW, type AdamWGroup, type AdamWOptions, type AdamWSettings } from "./adamw.ts";
export { clipGradNorm, gradNorm } from "./clip.ts";
export { Ema } from "./ema.ts";
export type { Named, Parameters } from "./state.ts";
