/** The public door of the plugin contract, exported as `waver/plugin`. */
export { z } from "zod";
export { ByPass, MEASURE } from "./accelerating.ts";
export * from "./define.ts";
export { meanOfFrames } from "./embedding.ts";
export * from "./errors.ts";
export { HOOK_API, type Hook, type HookName, hooks, type In, type Mode, type Out, type Traits } from "./hooks.ts";
export { OFFLOAD, Offload, problemsOfOffload, useFitting } from "./offload.ts";
export { readPreprocessor } from "./preprocessor.ts";
export * from "./table.ts";
export * from "./types.ts";
export { inForm, WEIGHTS, WeightForm } from "./weights.ts";
