/** Merges of seven small models and averages over forty steps of a training. */
import { openSafetensors, scope, type Tensor, tensor } from "../../../native/index.ts";
import { dare, linear, slerp, taskArithmetic, ties } from "../../../plugins/merge/formulas.ts";
import { coefficients, decayAt, gammaOf, postHoc, powerDecayAt } from "../../../plugins/merge/profiles.ts";
import { defineCase, type Produce } from "../case.ts";
import type { Golden } from "../golden.ts";
import { toTensor } from "../tensors.ts";

interface Runs {
  readonly weighted: { readonly weights_before_normalisation: readonly number[] };
  readonly task_arithmetic: { readonly lambda: number; readonly models: readonly number[] };
  readonly dare_linear: { readonly drop_rate: number; readonly models: readonly number[] };
}
interface Ties {
  readonly weights: readonly number[];
  readonly density: number;
  readonly models: readonly number[];
}

function models(golden: Golden, produce: Produce): void {
  const runs = golden.params.runs as Runs & Readonly<Record<string, Ties>>;
  using base = openSafetensors(golden.path("base.safetensors"));
  const count = runs.weighted.weights_before_normalisation.length;
  const files = Array.from({ length: count }, (_, i) => openSafetensors(golden.path(`model_${i}.safetensors`)));
  for (const key of base.keys)
    scope(() => {
      const all = files.map((file) => file.get(key));
      const from = (chosen: readonly number[]): Tensor[] => [base.get(key), ...chosen.map((i) => all[i] as Tensor)];
      const { weights_before_normalisation: weights } = runs.weighted;
      const sum = weights.reduce((total, each) => total + each, 0);
      const made: Record<string, Tensor> = {
        mean: linear(
          all,
          all.map(() => 1 / count),
        ),
        weighted: linear(
          all,
          weights.map((each) => each / sum),
        ),
        task_arithmetic: taskArithmetic(
          from(runs.task_arithmetic.models),
          runs.task_arithmetic.models.map(() => runs.task_arithmetic.lambda),
        ),
        dare_linear: dare(from(runs.dare_linear.models), {
          dropRate: runs.dare_linear.drop_rate,
          scale: 1,
          keep: (model, like) =>
            toTensor(golden.input(`dare.keep_mask.${key}`))
              .select(0, model)
              .view(like.shape),
        }),
      };
      for (const [name, run] of Object.entries(runs))
        if (name.startsWith("ties")) made[name] = ties(from(run.models), { ...run, scale: 1 });
      for (const [name, t] of golden.outputs.flatMap((each): [string, number][] => {
        const [, found, at] = /^(slerp_(?:near_parallel_)?([\d.]+?))\.[a-z]/.exec(each) ?? [];
        return found === undefined ? [] : [[found, Number(at)]];
      }))
        made[name] = name.includes("near_parallel")
          ? slerp(base.get(key), toTensor(golden.input(`near_parallel.${key}`)), t)
          : slerp(all[0] as Tensor, all[1] as Tensor, t);
      for (const [name, value] of Object.entries(made)) produce(`${name}.${key}`, value);
    });
  for (const file of files) file.dispose();
}

function averages(golden: Golden, produce: Produce): void {
  const runs = golden.params.runs as Record<
    string,
    { decay: number; use_ema_warmup?: boolean; inv_gamma?: number; power?: number; update_after_step?: number }
  >;
  const steps = golden.input("weights_over_time");
  const [count = 0, width = 0] = steps.shape;
  /** The average after each step. */
  const trail = (decays: readonly number[]): Tensor =>
    scope(() => {
      const weights = Array.from({ length: count }, (_, k) => {
        const own = coefficients(decays.slice(0, k + 1));
        return Array.from({ length: count }, (_, i) => own[i] ?? 0);
      });
      return tensor(weights).matmul(toTensor(steps).view([count, width]));
    });
  for (const [name, run] of Object.entries(runs)) {
    const decays = Array.from({ length: count }, (_, i) =>
      decayAt(i + 1, {
        decay: run.decay,
        updateAfterStep: run.update_after_step,
        ...(run.use_ema_warmup === true ? { warmup: { invGamma: run.inv_gamma ?? 1, power: run.power ?? 2 / 3 } } : {}),
      }),
    );
    produce(`${name}.decay`, { shape: [count], data: decays });
    scope(() => produce(`${name}.shadow`, trail(decays)));
  }
  for (const sigma of Object.keys(golden.params.karras_gamma as object)) {
    const gamma = gammaOf(Number(sigma));
    const decays = Array.from({ length: count }, (_, i) => powerDecayAt(i + 1, gamma));
    scope(() => produce(`karras_sigma${sigma}.ema`, trail(decays)));
  }
  const posthoc = golden.params.posthoc as {
    snapshot_t: number[];
    snapshot_gamma: number[];
    target_t: number;
    target_sigma_rel: number;
  };
  const weights = postHoc(
    posthoc.snapshot_t.map((t, i) => ({ t, gamma: posthoc.snapshot_gamma[i] as number })),
    { t: posthoc.target_t, gamma: gammaOf(posthoc.target_sigma_rel) },
  );
  produce("posthoc.weights", { shape: [weights.length], data: weights });
}

export default defineCase({
  cases: ["merge_models", "merge_ema"],
  run: (golden, produce) => (golden.name.startsWith("merge_ema") ? averages : models)(golden, produce),
});
