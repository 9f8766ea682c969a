/** The Waver network and its refiner: forwards with taps, windows, one bf16 run, loss and gradients. */
import {
  cat,
  gradNorm,
  mseLoss,
  noGrad,
  openCheckpoint,
  packLinears,
  scope,
  type Tensor,
  tensor,
} from "../../../native/index.ts";
import { load, readParams } from "../../../plugins/waver/checkpoint.ts";
import { type WaverInput, WaverTransformer } from "../../../plugins/waver/model.ts";
import { WindowParams } from "../../../plugins/waver/params.ts";
import { windowIds } from "../../../plugins/waver/windows.ts";
import { defineCase, type Produce } from "../case.ts";
import type { Golden } from "../golden.ts";

/** The networks of a case and the runs each of them serves. */
const NETWORKS: Readonly<Record<string, readonly string[]>> = {
  transformer: ["t2v", "i2v", "t2i", "interpolation", "batch"],
  transformer_t5_only: ["t5_only"],
  transformer_qwen_only: ["qwen_only"],
};

const given = (golden: Golden, name: string): Tensor => {
  const { shape, data } = golden.input(name);
  return tensor(Float32Array.from(data)).reshape([...shape]);
};

const features = (golden: Golden, run: string, name: "t5" | "qwen"): WaverInput["t5"] =>
  golden.has(`${run}.${name}`)
    ? { states: given(golden, `${run}.${name}`), mask: given(golden, `${run}.${name}_mask`).to("bool") }
    : null;

const inputs = (golden: Golden, run: string): WaverInput => ({
  latents: given(golden, `${run}.V`),
  known: { latents: given(golden, `${run}.I`), mask: given(golden, `${run}.Mask`) },
  t: given(golden, `${run}.t`),
  t5: features(golden, run, "t5"),
  qwen: features(golden, run, "qwen"),
});

/** Hands over velocity and taps; rows of padded text are zero in the reference. */
function forward(network: WaverTransformer, golden: Golden, run: string, produce: Produce, out = run): void {
  const input = inputs(golden, run);
  const taps = new Map<string, Tensor>();
  const velocity = network.forward(input, taps);
  const real = cat(
    [input.t5, input.qwen].flatMap((each) => (each === null ? [] : [each.mask.float()])),
    1,
  );
  const numText = real.size(1);
  const text = (name: string, value: Tensor): void => produce(`${out}.tap.${name}`, value.mul(real.unsqueeze(-1)));
  for (const [name, value] of taps) {
    if (name.startsWith("single.")) {
      text(`${name}.text`, value.narrow(1, 0, numText));
      produce(`${out}.tap.${name}.video`, value.narrow(1, numText, value.size(1) - numText));
    } else if (name === "text" || name.endsWith(".text")) text(name, value);
    else produce(`${out}.tap.${name}`, value);
  }
  produce(`${out}.velocity`, velocity);
}

async function dit(golden: Golden, produce: Produce): Promise<void> {
  for (const [folder, runs] of Object.entries(NETWORKS)) {
    using network = await load(golden.path(folder));
    for (const run of runs) scope(() => noGrad(() => forward(network, golden, run, produce)));
    if (folder === "transformer") train(network, golden, produce);
  }
  using low = await load(golden.path("transformer"), { dtype: "bfloat16" });
  for (const block of [...low.dual, ...low.single]) packLinears(block); // as the denoiser does on a CPU
  scope(() =>
    noGrad(() => {
      const { latents, known, t, t5, qwen } = inputs(golden, "t2v");
      const half = (each: WaverInput["t5"]): WaverInput["t5"] =>
        each && { ...each, states: each.states.to("bfloat16") };
      // The network itself brings latents to its dtype.
      produce("bf16.velocity", low.forward({ latents, known, t, t5: half(t5), qwen: half(qwen) }));
    }),
  );
}

function train(network: WaverTransformer, golden: Golden, produce: Produce): void {
  network.requiresGrad_();
  scope(() => {
    const [x0, n, t] = ["x0", "n", "t"].map((name) => given(golden, `train.${name}`)) as [Tensor, Tensor, Tensor];
    const xt = x0.lerp(n, t.reshape([-1, 1, 1, 1, 1]));
    const velocity = network.forward({ ...inputs(golden, "batch"), latents: xt, t });
    const loss = mseLoss(velocity, n.sub(x0));
    loss.backward();
    produce("train.x_t", xt);
    produce("train.velocity", velocity);
    produce("train.loss", loss);
    produce("train.grad_norm", { shape: [], data: [gradNorm(network.parameters())] });
    for (const [name, p] of network.namedParameters()) if (p.grad !== null) produce(`train.grad.${name}`, p.grad);
  });
  network.zeroGrad();
  network.requiresGrad_(false);
}

async function refiner(golden: Golden, produce: Produce): Promise<void> {
  const params = await readParams(golden.path("transformer"));
  for (const kind of ["count", "size"] as const) {
    const window = kind === "count" ? params.window! : WindowParams.parse(golden.params["window_size_config"]);
    using network = new WaverTransformer({ ...params, window });
    using file = openCheckpoint(golden.path("transformer"));
    network.load(file);
    for (const run of ["main", "single_frame", "batch_first_frame"]) {
      scope(() => noGrad(() => forward(network, golden, `count.${run}`, produce, `${kind}.${run}`)));
      const [T, H, W] = golden.input(`count.${run}.V`).shape.slice(2) as [number, number, number];
      for (const axis of ["spatial", "temporal"] as const) {
        const ids = windowIds({ t: T, h: H / 2, w: W / 2 }, window, axis);
        produce(`${kind}.${run}.${axis}_window`, { shape: [ids.length], data: ids });
      }
    }
  }
}

export default defineCase({
  cases: ["waver_dit", "waver_refiner"],
  run: (golden, produce) => (golden.name.startsWith("waver_dit") ? dit(golden, produce) : refiner(golden, produce)),
});
