/** Rectified flow on the Wan DiT: loss and gradients of the first step, then five steps of AdamW with clipping. */
import { AdamW, clipGradNorm, mseLoss, scope, type Tensor, tensor } from "../../../native/index.ts";
import { WanCheckpoint } from "../../../plugins/wan/checkpoint.ts";
import { WanTransformer } from "../../../plugins/wan/model.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

interface Params {
  readonly checkpoint: string;
  readonly lr: number;
  readonly betas: [number, number];
  readonly eps: number;
  readonly weight_decay: number;
  readonly clip_grad_norm: number;
  readonly steps: number;
}

export default defineCase({
  cases: ["train_rectified_flow"],
  run(golden, produce) {
    const params = golden.params as unknown as Params;
    using weights = new WanCheckpoint(golden.path(params.checkpoint));
    using model = new WanTransformer(weights.config).load(weights);
    model.requiresGrad_();
    const { lr, betas, eps, weight_decay: weightDecay } = params;
    using optimizer = new AdamW(model.namedParameters(), { lr, betas, eps, weightDecay });
    const losses: number[] = [];
    const norms: number[] = [];
    for (let step = 0; step < params.steps; step++)
      scope(() => {
        const input = (name: string): Tensor => toTensor(golden.input(name)).select(0, step);
        const [x0, noise, sigma] = [input("x0"), input("noise"), input("sigma")];
        const s = sigma.view([-1, 1, 1, 1, 1]);
        const latents = x0.mul(s.neg().add(1)).add(noise.mul(s));
        const target = noise.sub(x0);
        const prediction = model.forward({ latents, timestep: sigma.mul(1000), text: input("text") });
        const loss = mseLoss(prediction, target);
        loss.backward();
        losses.push(loss.item());
        if (step === 0) {
          for (const [name, value] of Object.entries({ x_t: latents, target, prediction }))
            produce(`step0.${name}`, value);
          for (const [name, weight] of model.namedParameters()) produce(`step0.grad.${name}`, weight.grad as Tensor);
        }
        norms.push(clipGradNorm(model.parameters(), params.clip_grad_norm));
        optimizer.step();
        model.zeroGrad();
      });
    scope(() => {
      produce("losses", tensor(losses));
      produce("grad_norms", tensor(norms));
    });
    for (const [name, weight] of model.namedParameters()) produce(`after.${name}`, weight);
  },
});
