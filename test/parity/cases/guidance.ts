/** Guides over four successive steps, with momentum where the run has it. */
import { scope, stack, type Tensor } from "../../../native/index.ts";
import { type Apg, apg, Momentum } from "../../../plugins/guide-apg/apg.ts";
import { cfg } from "../../../plugins/guide-cfg/cfg.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

interface Run {
  readonly kind?: "cfg" | "apg";
  readonly guidance_scale: number;
  readonly guidance_rescale?: number;
  readonly use_original_formulation?: boolean;
  readonly eta?: number;
  readonly norm_threshold?: number;
  readonly momentum?: number | null;
  readonly norm_dim?: number | readonly number[] | null;
  readonly reduce_axes_of_BCTHW?: readonly number[];
}

export default defineCase({
  cases: ["guidance_cfg_apg", "guidance_video_apg_waver"],
  run(golden, produce) {
    for (const [name, run] of Object.entries(golden.params.runs as Record<string, Run>))
      scope(() => {
        const cond = toTensor(golden.input("cond")).unbind(0);
        const uncond = toTensor(golden.input("uncond")).unbind(0);
        const rows =
          run.kind === "cfg" ? cond.map((c, k) => [cfgOf(run, c, uncond[k] as Tensor)]) : apgRows(run, cond, uncond);
        for (const [i, output] of [name, `${name}.norm`, `${name}.clip`].entries())
          if (rows[0]?.[i] !== undefined) produce(output, stack(rows.map((row) => row[i] as Tensor)));
      });
  },
});

/** diffusers' original formulation, cond + w (cond - uncond), is ours with w + 1. */
const cfgOf = (run: Run, cond: Tensor, uncond: Tensor): Tensor =>
  cfg(cond, uncond, run.guidance_scale + (run.use_original_formulation === true ? 1 : 0), run.guidance_rescale);

function apgRows(run: Run, cond: readonly Tensor[], uncond: readonly Tensor[]): Tensor[][] {
  // the diffusers cases add to uncond, or with the original formulation scale * update to cond; ours adds (scale - 1) * update
  const isDiffusers = run.kind === "apg";
  const original = run.use_original_formulation === true;
  const axes = run.reduce_axes_of_BCTHW ?? (run.norm_dim == null ? [1, 2, 3, 4] : [run.norm_dim].flat());
  const settings: Apg = {
    scale: run.guidance_scale + (isDiffusers && original ? 1 : 0),
    eta: run.eta ?? 1,
    threshold: run.norm_threshold ?? 0,
    axes,
    form: isDiffusers && !original ? "diffusers" : "paper",
  };
  const running = run.momentum == null ? undefined : new Momentum(run.momentum);
  return cond.map((c, k) => {
    const difference = c.sub(uncond[k] as Tensor);
    const { prediction, norm, clip } = apg(c, uncond[k] as Tensor, running?.update(difference) ?? difference, settings);
    return [prediction, norm, clip];
  });
}
