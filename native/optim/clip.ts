import { noGrad } from "../autograd.ts";
import { call, many } from "../call.ts";
import { stack } from "../ops.ts";
import { table } from "../schema.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { named, type Parameters } from "./state.ts";

const A = table("_foreach_norm.Scalar", "_foreach_mul_.Scalar");
const EPS = 1e-6; // torch.nn.utils.clip_grad_norm_

/** The 2-norm of all gradients together. */
export function gradNorm(params: Parameters): number {
  return noGrad(() => scope(() => total(gradients(params))));
}

/**
 * Scales the gradients so that their common 2-norm is at most `max`; returns the norm before. A norm that is not
 * finite leaves them as they are: the caller decides what to do with such a step.
 */
export function clipGradNorm(params: Parameters, max: number): number {
  return noGrad(() =>
    scope(() => {
      const grads = gradients(params);
      const norm = total(grads);
      const factor = max / (norm + EPS);
      if (grads.length > 0 && Number.isFinite(norm) && factor < 1) call(A["_foreach_mul_.Scalar"], grads, factor);
      return norm;
    }),
  );
}

function gradients(params: Parameters): Tensor[] {
  return named(params)
    .map(([, p]) => p.grad)
    .filter((g) => g !== null);
}

function total(grads: Tensor[]): number {
  if (grads.length === 0) return 0;
  const norms = many(A["_foreach_norm.Scalar"], grads, 2).map((n) => n.to("float32"));
  return stack(norms).norm().item();
}
