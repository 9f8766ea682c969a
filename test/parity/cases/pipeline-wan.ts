/** Text to video, whole: prompt, tokens, states, each denoise step, latents, frames. The parts are the plugins' own. */
import { cat, keep, scope, stack, type Tensor, tensor } from "../../../native/index.ts";
import { readSchedulerConfig } from "../../../plugins/flow/config.ts";
import { euler } from "../../../plugins/flow/euler.ts";
import { flowMatchEulerSchedule, flowUniPCSchedule } from "../../../plugins/flow/schedule.ts";
import { solverOf, uniPC } from "../../../plugins/flow/unipc.ts";
import { cfg } from "../../../plugins/guide-cfg/cfg.ts";
import type { Conditioning, SampleRequest } from "../../../plugins/index.ts";
import { T5TextEncoder } from "../../../plugins/t5/encoder.ts";
import { WanDenoiser } from "../../../plugins/wan/denoiser.ts";
import { WanVae } from "../../../plugins/wan-vae/codec.ts";
import { defineCase } from "../case.ts";
import { toTensor } from "../tensors.ts";

interface Params {
  readonly pipeline: string;
  readonly prompt: string;
  readonly negative_prompt: string;
  readonly num_inference_steps: number;
  readonly guidance_scale: number;
  readonly max_sequence_length: number;
}

export default defineCase({
  cases: ["pipeline_wan_t2v", "pipeline_wan_t2v_euler"],
  async run(golden, produce) {
    const params = golden.params as unknown as Params;
    const folder = (part: string): string => golden.path(params.pipeline, part);
    const device = "cpu";
    const length = params.max_sequence_length;

    await using encoder = T5TextEncoder.load(folder("text_encoder"), {
      device,
      tokenizer: folder("tokenizer"),
      maxTokens: length,
      clean: true,
    });
    const encode = (prompt: string): Conditioning => encoder.encode([prompt], { padTo: length });
    const cond = encode(params.prompt);
    const uncond = encode(params.negative_prompt);
    const ids = encoder.tokenize([params.prompt, params.negative_prompt]);
    produce("prompt_input_ids", {
      shape: [2, length],
      data: ids.flatMap((row) => Array.from({ length }, (_, i) => row[i] ?? 0)),
    });
    scope(() => produce("prompt_attention_mask", cat([cond.mask, uncond.mask]).to("int64")));
    produce("prompt_embeds", cond.states);
    produce("negative_prompt_embeds", uncond.states);

    const config = readSchedulerConfig(folder("scheduler"));
    const isEuler = config._class_name === "FlowMatchEulerDiscreteScheduler";
    const schedule = (isEuler ? flowMatchEulerSchedule : flowUniPCSchedule)(config, {
      numSteps: params.num_inference_steps,
    });
    scope(() => {
      produce("timesteps", tensor(schedule.timesteps));
      produce("sigmas", tensor(schedule.sigmas));
    });

    await using denoiser = WanDenoiser.load(folder("transformer"), { device, textLength: length });
    const outputs: Tensor[] = [];
    const states: Tensor[] = [];
    using start = toTensor(golden.input("latents"));
    const request: SampleRequest = {
      latents: start,
      numSteps: params.num_inference_steps,
      convention: denoiser.convention,
      predict(latents, t) {
        const [positive, negative] = [cond, uncond].map((text) => denoiser.forward({ latents, t, text })) as [
          Tensor,
          Tensor,
        ];
        outputs.push(keep(cat([positive, negative])));
        return cfg(positive, negative, params.guidance_scale);
      },
      async onStep({ latents }) {
        states.push(scope(() => latents.clone()));
      },
      signal: new AbortController().signal,
    };
    const latents = await (isEuler ? euler(request, schedule) : uniPC(request, schedule, solverOf(config)));
    scope(() => {
      produce("model_outputs", stack(outputs));
      produce("latents_per_step", stack(states));
    });

    await using vae = WanVae.load(folder("vae"), { device });
    scope(() => {
      produce("latents_denormalized", vae.denormalise(latents));
      const video = vae.decode(latents).div(2).add(0.5).clamp(0, 1).transpose(1, 2); // [B F 3 H W]
      produce("video", video);
      produce("video_u8", video.select(0, 0).mul(255).round().permute([0, 2, 3, 1]));
    });
    for (const made of [latents, ...outputs, ...states, cond.states, cond.mask, uncond.states, uncond.mask])
      made.dispose();
  },
});
