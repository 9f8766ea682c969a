/** Chains of tiny operators: what a call costs from TypeScript, beside PyTorch eager in inference mode on both sides. */
import { join } from "node:path";
import { cat, inferenceMode, layerNorm, openSafetensors, scope, type Tensor } from "../../native/index.ts";
import { type Bench, gemmPeaks, gemms, interleaved, median, round, type Side, seconds } from "./bench.ts";

const CHAIN = 100;
const REPEATS = 200; // chains in one timing: some 20 ms

export const ops: Bench = async ({ peer, folder, rounds, log }) => {
  await peer.ask({ do: "ops", folder, chain: CHAIN, repeats: REPEATS });
  using io = openSafetensors(join(folder, "io.safetensors"));
  using a = io.get("a").clone();
  using b = io.get("b").clone();
  const chain = (op: (x: Tensor) => Tensor) => (): void => {
    let x: Tensor = a;
    for (let i = 0; i < CHAIN; i++) x = op(x);
  };
  const jobs: Readonly<Record<string, () => void>> = {
    add: chain((x) => x.add(b)),
    mul: chain((x) => x.mul(b)),
    mm: chain((x) => x.mm(b)),
    layer_norm: chain((x) => layerNorm(x, [4])),
    view: () => {
      let x: Tensor = a;
      for (let i = 0; i < CHAIN / 2; i++) x = x.view([2, 8]).view([4, 4]);
    },
    cat: chain(() => cat([a, b])),
  };
  using peak = gemms();
  const sides: Record<string, Side> = {};
  for (const [name, job] of Object.entries(jobs)) {
    sides[`waver.${name}`] = () =>
      seconds(() =>
        inferenceMode(() => {
          for (let i = 0; i < REPEATS; i++) scope(job);
        }),
      );
    sides[`torch.${name}`] = () => peer.seconds(`ops.${name}`);
  }
  const times = await interleaved(rounds, {
    ...sides,
    "gemm.float32": peak["gemm.float32"],
    "gemm.bfloat16": peak["gemm.bfloat16"],
  });
  const micros = Object.fromEntries(
    Object.keys(sides).map((name) => [name, round((times[name as keyof typeof times] / REPEATS / CHAIN) * 1e6)]),
  );
  log(JSON.stringify(micros));
  const ratios = Object.fromEntries(
    Object.keys(jobs).map((name) => [name, round((micros[`waver.${name}`] ?? 0) / (micros[`torch.${name}`] ?? 1))]),
  );
  return { ratios: { median: round(median(Object.values(ratios))), ...ratios }, peaks: gemmPeaks(times), micros };
};
