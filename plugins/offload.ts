/** Networks that may be larger than the device: how a request says so, and how whoever uses one asks for it. */
import { z } from "zod";
import { type Context, takes, type Used } from "./define.ts";
import { WaverError } from "./errors.ts";

/** What a request may wish. `auto` is `blocks` where weights do not fit. */
export const Offload = z.enum(["auto", "none", "blocks"]);
export type Offload = z.output<typeof Offload>;

export const OFFLOAD =
  "weights of a network's blocks on the device around their turns only, for a network larger than its memory: auto does so where it does not fit";

/** What else a request does with the same weights, before anything is started. */
export function* problemsOfOffload(request: {
  readonly offload: Offload;
  readonly weights?: string | undefined;
  readonly parallel?: { readonly shardWeights: boolean } | undefined;
}): Generator<[field: "offload", problem: string]> {
  if (request.offload !== "blocks") return;
  if (request.parallel?.shardWeights === true)
    yield ["offload", "parallel.shardWeights already leaves a part of the weights on each rank: use one of the two"];
  if (request.weights !== undefined)
    yield [
      "offload",
      `weights that come and go are read as they are stored, not in ${request.weights}: use one of the two`,
    ];
}

/** A network in use as the request wishes; on `auto` as a whole if memory is admitted for that, else by blocks. */
export async function useFitting<H extends "family" | "encodeText">(
  hook: H,
  id: string,
  options: Readonly<Record<string, unknown>>,
  wish: Offload,
  ctx: Context,
): Promise<Used<H>> {
  const can = takes(hook, id, "offload", ctx);
  const byBlocks = (): Promise<Used<H>> => ctx.use(hook, id, { ...options, offload: true });
  if (wish === "blocks" && can) return byBlocks();
  if (wish === "blocks" && hook === "family")
    throw new WaverError("needs_unmet", `${id} of ${hook} cannot leave its blocks' weights outside the device`, {
      hint: "leave offload out",
    });
  try {
    return await ctx.use(hook, id, options);
  } catch (error) {
    if (wish !== "auto" || !can || !(error instanceof WaverError) || error.code !== "out_of_memory") throw error;
    ctx.log("weights_offloaded", { network: id, reason: error.message });
    return byBlocks();
  }
}
