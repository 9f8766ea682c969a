/**
 * Text and image to video, whole: prompt, tokens, states, picture, each denoise step, latents, and the frames that
 * `generate` makes of the same folder. The parts are the plugins' own.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodePng } from "../../../daemon/generation/png.ts";
import { resizeImage } from "../../../daemon/media/resize.ts";
import { generate } from "../../../daemon/operations/generate.ts";
import { cat, keep, openSafetensors, scope, stack, type Tensor, tensor, zeros } from "../../../native/index.ts";
import { ClipImages } from "../../../plugins/clip/images.ts";
import { readSchedulerConfig } from "../../../plugins/flow/config.ts";
import { euler } from "../../../plugins/flow/euler.ts";
import { flowMatchEulerSchedule, flowUniPCSchedule } from "../../../plugins/flow/schedule.ts";
import { solverOf, uniPC } from "../../../plugins/flow/unipc.ts";
import { cfg } from "../../../plugins/guide-cfg/cfg.ts";
import type { Conditioning, FrameBatch, KnownFrames, SampleRequest } from "../../../plugins/index.ts";
import { T5TextEncoder } from "../../../plugins/t5/encoder.ts";
import { WanDenoiser } from "../../../plugins/wan/denoiser.ts";
import { WanVae } from "../../../plugins/wan-vae/codec.ts";
import { runOperation, testContext } from "../../support/context.ts";
import { defineCase, type Produce } from "../case.ts";
import type { Golden } from "../golden.ts";
import { toTensor } from "../tensors.ts";

interface Params {
  readonly pipeline: string;
  readonly prompt: string;
  readonly negative_prompt: string;
  readonly num_inference_steps: number;
  readonly guidance_scale: number;
  readonly max_sequence_length: number;
  readonly width: number;
  readonly height: number;
  readonly num_frames: number;
}

/** The picture of a case, packed RGB. */
function pictureOf(golden: Golden): FrameBatch {
  const { data, shape } = golden.input("image_u8");
  const [height, width] = shape as [number, number];
  return { data: Uint8Array.from(data), count: 1, width, height, format: "rgb24", times: [0] };
}

/** What an image-to-video network is told of its picture. Belongs to the caller. */
async function continued(
  golden: Golden,
  { pipeline, width, height, num_frames }: Params,
  vae: WanVae,
  denoiser: WanDenoiser,
  produce: Produce,
): Promise<{ image: Tensor; known: KnownFrames } | undefined> {
  if (!golden.has("image_u8")) return undefined;
  await using clip = ClipImages.load(golden.path(pipeline, "image_encoder"), { device: "cpu" });
  const picture = pictureOf(golden);
  const made = scope(() => {
    const pixels = tensor(picture.data).view([1, picture.height, picture.width, 3]).permute([0, 3, 1, 2]);
    produce("image_encoder_pixel_values", clip.prepare(pixels.contiguous()));
    const { data } = resizeImage(picture, { width, height }, "stretch");
    const first = tensor(data).view([1, height, width, 3]).permute([0, 3, 1, 2]).float().div(255).mul(2).sub(1);
    produce("image_preprocessed", first);
    // from here on the stored picture, so that a grey level of the resizing does not hide behind the rest
    const stored = (name: string): Tensor => toTensor(golden.reference(name));
    const image = clip.module.vision_model.forward(stored("image_encoder_pixel_values"), { skipLast: 1 });
    produce("image_embeds", image);
    const frames = cat([stored("image_preprocessed").unsqueeze(2), zeros([1, 3, num_frames - 1, height, width])], 2);
    const isKnown = Array.from({ length: num_frames }, (_, i) => i === 0);
    const known = (denoiser.condition as NonNullable<WanDenoiser["condition"]>)(frames, isKnown, vae);
    produce("condition", cat([known.mask, known.latents], 1));
    return { image, known };
  });
  return made;
}

/** The frames of `generate`, from the case's own latents. */
async function generated(golden: Golden, params: Params, produce: Produce): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), "parity-"));
  try {
    await using ctx = await testContext({ plugins: ["t5", "clip", "wan", "wan-vae", "flow", "guide-cfg"] });
    const image = join(scratch, "image.png");
    if (golden.has("image_u8")) {
      const { data, width, height } = pictureOf(golden);
      writeFileSync(image, encodePng(data, width, height, undefined));
    }
    const { items } = (await runOperation(
      generate,
      {
        model: golden.path(params.pipeline),
        prompt: params.prompt,
        negativePrompt: params.negative_prompt,
        width: params.width,
        height: params.height,
        numFrames: params.num_frames,
        numSteps: params.num_inference_steps,
        maxTokens: params.max_sequence_length,
        latents: `${golden.path("io.safetensors")}#in.latents`,
        guide: { id: "cfg", scale: params.guidance_scale },
        keepFrames: true,
        ...(golden.has("image_u8") ? { image } : {}),
      },
      ctx,
    )) as { items: { frames: string }[] };
    using file = openSafetensors(items[0]?.frames as string);
    scope(() => {
      const video = file.get("video"); // [1 F 3 H W]
      produce("video", video);
      produce("video_u8", video.select(0, 0).mul(255).round().permute([0, 2, 3, 1]));
    });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

export default defineCase({
  cases: ["pipeline_wan_t2v", "pipeline_wan_t2v_euler", "pipeline_wan_i2v"],
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
    await using vae = WanVae.load(folder("vae"), { device });
    const given = await continued(golden, params, vae, denoiser, produce);
    const outputs: Tensor[] = [];
    const states: Tensor[] = [];
    using start = toTensor(golden.input("latents"));
    const request: SampleRequest = {
      latents: start,
      numSteps: params.num_inference_steps,
      convention: denoiser.convention,
      predict(latents, t) {
        const [positive, negative] = [cond, uncond].map((text) => denoiser.forward({ latents, t, text, ...given })) as [
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

    scope(() => produce("latents_denormalized", vae.denormalise(latents)));
    await generated(golden, params, produce);
    for (const made of [
      given?.image,
      given?.known.latents,
      given?.known.mask,
      latents,
      ...outputs,
      ...states,
      cond.states,
      cond.mask,
      uncond.states,
      uncond.mask,
    ])
      made?.dispose();
  },
});
