/** A denoise step of Wan at 1.3B width, two blocks, 1536 tokens, 512 text rows: ours and diffusers' on the same weights. */
import { join } from "node:path";
import { type DType, noGrad, openSafetensors, profiled, profileTable, scope, type Tensor } from "../../native/index.ts";
import { WanDenoiser } from "../../plugins/wan/denoiser.ts";
import { type Bench, gemmPeaks, gemms, interleaved, round, seconds } from "./bench.ts";

const CONFIG = { num_attention_heads: 12, attention_head_dim: 128, ffn_dim: 8960, num_layers: 2, text_dim: 4096 };
const TIMESTEP = 500;

export const dit: Bench = async ({ peer, folder, rounds, profile, log }) => {
  await peer.ask({
    do: "dit",
    folder,
    config: CONFIG,
    latents: [1, 16, 4, 32, 48], // 4 x 16 x 24 tokens
    text: [1, 512, 4096],
    timestep: TIMESTEP,
  });
  using io = openSafetensors(join(folder, "io.safetensors"));
  await using full = WanDenoiser.load(join(folder, "transformer"), { device: "cpu", dtype: "float32" });
  await using half = WanDenoiser.load(join(folder, "transformer"), { device: "cpu", dtype: "bfloat16" });
  using states = io.get("text");
  using halfStates = states.to("bfloat16");
  const step = (denoiser: WanDenoiser, text: Tensor): Tensor =>
    noGrad(() =>
      scope(() =>
        denoiser.forward({
          latents: io.get("latents").to(text.dtype),
          t: io.get("timestep").to("float64").div(1000),
          text: { states: text, mask: text.select(2, 0).ne(0) },
        }),
      ),
    );

  const far = (a: Tensor, b: Tensor): number => a.to("float32").sub(b).norm().item() / b.norm().item();
  const errors = scope(() => {
    const [ref32, ref16] = [io.get("out.float32"), io.get("out.bfloat16")];
    return {
      "float32.relative": far(step(full, states), ref32),
      "bfloat16.relative": far(step(half, halfStates), ref32),
      "bfloat16.reference": far(ref16, ref32),
    };
  });
  // 1e-5 is what two fp32 implementations of this network differ by; bf16 has the bound
  if (errors["float32.relative"] > 1e-4 || errors["bfloat16.relative"] > 2 * errors["bfloat16.reference"])
    throw new Error(`the outputs are not those of the reference: ${JSON.stringify(errors)}`);

  if (profile)
    for (const [dtype, run] of Object.entries({
      float32: () => step(full, states),
      bfloat16: () => step(half, halfStates),
    }))
      log(`${dtype}\n${profileTable(profiled(() => run().dispose()))}`);
  using peak = gemms();
  const run = (denoiser: WanDenoiser, text: Tensor) => () => seconds(() => step(denoiser, text).dispose());
  const times = await interleaved(rounds, {
    "waver.float32": run(full, states),
    "diffusers.float32": () => peer.seconds("dit.float32"),
    "waver.bfloat16": run(half, halfStates),
    "diffusers.bfloat16": () => peer.seconds("dit.bfloat16"),
    "gemm.float32": peak["gemm.float32"],
    "gemm.bfloat16": peak["gemm.bfloat16"],
  });
  log(JSON.stringify(times));
  const ratio = (dtype: DType & ("float32" | "bfloat16")): number =>
    round(times[`diffusers.${dtype}`] / times[`waver.${dtype}`]);
  return {
    ratios: { fp32: ratio("float32"), bf16: ratio("bfloat16") },
    peaks: gemmPeaks(times),
    seconds: times,
    errors,
  };
};
