/** Weights in 8 bits: how a request says so, and to whom it is handed on. */
import { z } from "zod";
import { type Context, takes } from "./define.ts";
import { WaverError } from "./errors.ts";

/** What most weights of a network's blocks are kept in; the engine says which, and does it. */
export const WeightForm = z.enum(["int8", "fp8"]);
export type WeightForm = z.output<typeof WeightForm>;

export const WEIGHTS =
  "the blocks of denoisers and text encoders in 8 bits, half of bfloat16's memory: int8 costs less quality than bfloat16 did, fp8 two to four times that and is meant for GPUs that multiply it. As stored when absent";

/** Options of a network that is kept in a form: a denoiser must take that, beside it a text encoder may be left as it is. */
export function inForm(
  options: Readonly<Record<string, unknown>>,
  weights: WeightForm | undefined,
  { hook, id }: { readonly hook: "family" | "encodeText"; readonly id: string },
  ctx: Pick<Context, "providers" | "log">,
): Readonly<Record<string, unknown>> {
  if (weights === undefined) return options;
  if (takes(hook, id, "weights", ctx)) return { ...options, weights };
  if (hook === "family")
    throw new WaverError("invalid_input", `weights: ${id} loads its network as it is stored, not in ${weights}`, {
      hint: "leave weights out",
    });
  ctx.log("weights_as_stored", { level: "warn", network: id, reason: "it keeps none in 8 bits" });
  return options;
}
