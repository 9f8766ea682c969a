/** Attention in parts: what queries saw of some keys, with the logarithm of its weight, and how such parts become one. */
import { many, one } from "../call.ts";
import { schema } from "../schema.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";

const CPU = schema("aten::_scaled_dot_product_flash_attention_for_cpu");
const CUDA = schema("aten::_scaled_dot_product_efficient_attention");
const LOG_SIGMOID = schema("aten::log_sigmoid");

/** For what is left out; finite, so that a row that sees nothing weighs nothing and is no NaN. */
export const NOTHING = -1e30;

export interface Part {
  /** float32 [B h S d] */
  readonly out: Tensor;
  /** log of the sum of exp of the scores, float32 [B h S] */
  readonly lse: Tensor;
}

/** q [B h Sq d], k and v [B h Sk d]; mask additive, in the dtype of q, broadcast to [B h Sq Sk]. */
export function partOf(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null = null): Part {
  return scope(() => {
    const [out, lse] =
      q.device === "cpu" ? many(CPU, q, k, v, 0, false, mask) : many(CUDA, q, k, v, mask, true, 0, false);
    // a GPU's rows of lse are padded to whole tiles
    return { out: (out as Tensor).to("float32"), lse: (lse as Tensor).narrow(2, 0, q.size(2)).to("float32") };
  });
}

/** Both parts as one, of the same queries and other keys. */
export function merged(a: Part, b: Part): Part {
  return scope(() => {
    const difference = a.lse.sub(b.lse);
    // weights of a and b: sigmoid(difference) and one minus that
    const out = a.out.sub(a.out.sub(b.out).mul(difference.neg().sigmoid().unsqueeze(-1)));
    // log(exp a + exp b) from the larger: one of the two may be NOTHING
    return { out, lse: a.lse.maximum(b.lse).sub(one(LOG_SIGMOID, difference.abs())) };
  });
}
