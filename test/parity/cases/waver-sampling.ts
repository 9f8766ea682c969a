/** Whole samples: the flow from t = 1 to 0 under CFG and video APG, and the refiner's w from 1 to 0. */
import { noGrad, scope, type Tensor, tensor } from "../../../native/index.ts";
import { euler } from "../../../plugins/flow/euler.ts";
import { waverSchedule } from "../../../plugins/flow/schedule.ts";
import { apg } from "../../../plugins/guide-apg/apg.ts";
import { cfg } from "../../../plugins/guide-cfg/cfg.ts";
import { degradeLatents } from "../../../plugins/stage-refine/degrade.ts";
import { load } from "../../../plugins/waver/checkpoint.ts";
import type { WaverInput, WaverTransformer } from "../../../plugins/waver/model.ts";
import { defineCase, type Produce } from "../case.ts";
import type { Golden } from "../golden.ts";

interface Run {
  readonly guidance: "cfg" | "video_apg" | null;
  readonly scale: number;
  readonly threshold: number;
  readonly eta: number;
  readonly w_d: number;
  readonly shift: number;
}

const given = (golden: Golden, name: string): Tensor => {
  const { shape, data } = golden.input(name);
  return tensor(Float32Array.from(data)).reshape([...shape]);
};
const text = (golden: Golden, branch: "cond" | "uncond"): Pick<WaverInput, "t5" | "qwen"> => {
  const features = (name: string): WaverInput["t5"] => ({
    states: given(golden, `${branch}.${name}`),
    mask: given(golden, `${branch}.${name}_mask`).to("bool"),
  });
  return { t5: features("t5"), qwen: features("qwen") };
};

async function sample(
  network: WaverTransformer,
  golden: Golden,
  name: string,
  run: Run,
  produce: Produce,
): Promise<void> {
  const refining = name.startsWith("refiner");
  const numSteps = golden.params["steps"] as number;
  const condition = refining ? "refiner" : name;
  const samples: number[] = [];
  const norms: number[] = [];
  const clips: number[] = [];
  const start = scope(() => {
    if (!refining) return given(golden, `${name}.noise`);
    const xn = degradeLatents(given(golden, "refiner.x"), given(golden, "refiner.n"), run.w_d);
    produce(`${name}.x_n`, xn);
    return xn;
  });
  const schedule = waverSchedule({ numSteps, shift: run.shift });
  produce(`${name}.${refining ? "w" : "t"}`, { shape: [numSteps + 1], data: schedule.sigmas });
  const final = await euler(
    {
      latents: start,
      numSteps,
      shift: run.shift,
      convention: { timeScale: 1, predicts: refining ? "data-noise" : "noise-data" },
      signal: new AbortController().signal,
      predict: (latents, t) =>
        noGrad(() => {
          const forward = (branch: "cond" | "uncond"): Tensor =>
            network.forward({
              latents,
              t,
              known: { latents: given(golden, `${condition}.I`), mask: given(golden, `${condition}.Mask`) },
              ...text(golden, branch),
            });
          const cond = forward("cond");
          if (run.guidance === null) return cond;
          const uncond = forward("uncond");
          if (run.guidance === "cfg") return cfg(cond, uncond, run.scale);
          const guided = apg(cond, uncond, cond.sub(uncond), {
            scale: run.scale,
            eta: run.eta,
            threshold: run.threshold,
            axes: [1, 3, 4],
            form: "paper",
          });
          norms.push(...guided.norm.toNumbers());
          clips.push(...guided.clip.toNumbers());
          return guided.prediction;
        }),
      onStep: async ({ latents }) => {
        samples.push(...latents.toNumbers());
      },
    },
    schedule,
  );
  produce(`${name}.samples`, { shape: [numSteps, ...final.shape], data: samples });
  produce(`${name}.final`, final);
  const frames = final.size(2);
  produce(`${name}.norm`, { shape: [numSteps, 1, 1, frames, 1, 1], data: norms });
  produce(`${name}.clip`, { shape: [numSteps, 1, 1, frames, 1, 1], data: clips });
  final.dispose();
  start.dispose();
}

export default defineCase({
  cases: ["waver_sampling"],
  async run(golden, produce) {
    using network = await load(golden.path("transformer"));
    using refiner = await load(golden.path("refiner"));
    for (const [name, run] of Object.entries(golden.params["runs"] as Record<string, Run>))
      await sample(name.startsWith("refiner") ? refiner : network, golden, name, run, produce);
  },
});
