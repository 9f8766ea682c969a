/** Training a VAE on pixels: the objective, and the operation that runs it on videos and pictures. */
import { basename, join } from "node:path";
import { defineOperation, definePlugin, provide, WaverError, z } from "../index.ts";

const weights = z.strictObject({
  l1: z.number().nonnegative().default(1),
  perceptual: z.number().nonnegative().default(0.3),
  kl: z.number().nonnegative().default(1e-3),
});

const trainVae = defineOperation({
  kind: "job",
  summary: "trains a VAE on videos and pictures (L1, perceptual and KL terms; no GAN yet)",
  runs: "device",
  input: z.strictObject({
    sources: z
      .array(z.string().meta({ format: "path" }))
      .min(1)
      .meta({ description: "video and picture files" }),
    output: z.string().meta({ description: "folder for the trained VAE", format: "path" }),
    steps: z.int().positive().default(2000),
    lr: z.number().positive().default(1.2e-3),
    side: z
      .int()
      .positive()
      .default(64)
      .meta({ description: "side of a training clip in pixels; a sixth of the batches are twice as large" }),
    frames: z.int().positive().default(17),
    batch: z.int().positive().default(4),
    whole: z
      .number()
      .min(0)
      .max(1)
      .default(0.6)
      .meta({ description: "share of clips shown whole, from their start; the rest are windows that move" }),
    stillShare: z
      .number()
      .min(0)
      .max(0.8)
      .default(0.13)
      .meta({ description: "share of batches that are single frames" }),
    weights: weights.prefault({}),
    seed: z.int().default(1),
  }),
  output: z.object({
    path: z.string(),
    seconds: z.number(),
    psnr: z.number().meta({ description: "dB on crops of the training material" }),
  }),
  slots: {
    codec: { hook: "codec", summary: "the VAE to train; its folder gives configuration and first weights" },
    perception: {
      hook: "perceive",
      summary: "frozen network of the perceptual term",
      default: { id: "efficientnet-lite0" },
    },
  },
  reads: ({ sources }) => sources,
  writes: ({ path }) => [path],
  examples: ["waver train-vae --sources clip.mp4 --codec wan-vae --codec.path configs/nano/vae --output my-vae"],
  async run(input, picks, ctx) {
    const { CropSource } = await import("./crops.ts");
    const { evaluatePsnr, latentStatistics, sampleClips, trainVae: train } = await import("./train.ts");
    const { readSource } = await import("./sources.ts");
    const { id: codecId, ...codecOptions } = picks.codec as { id: string };
    const codec = await (await ctx.use("codec", codecId, codecOptions))({});
    const { id: perceptionId, ...perceptionOptions } = picks.perception as { id: string };
    const perception =
      input.weights.perceptual > 0 ? await (await ctx.use("perceive", perceptionId, perceptionOptions))({}) : undefined;
    if (codec.save === undefined || codec.setStatistics === undefined)
      throw new WaverError("needs_unmet", `the codec ${codecId} cannot be saved after training`);
    using stack = new DisposableStack();
    const sources = [];
    for (const [i, path] of input.sources.entries()) {
      using frames = await readSource(path, ctx);
      sources.push({
        source: stack.use(new CropSource(frames, ctx.device as "cpu")),
        weight: Math.sqrt(frames.size(0)),
      });
      ctx.progress(i + 1, input.sources.length, "read", { source: basename(path) });
    }
    const started = performance.now();
    await train(
      codec,
      sources,
      {
        steps: input.steps,
        lr: input.lr,
        warmup: Math.min(200, Math.ceil(input.steps / 10)),
        maxStride: 2,
        whole: input.whole,
        gradNorm: 1,
        ema: 0.997,
        seed: input.seed,
        matmul: "bfloat16",
        weights: input.weights,
        perceptualFrom: Math.floor(input.steps / 6),
        batches: [
          { share: 0.83 - input.stillShare, size: input.batch, frames: input.frames, side: input.side },
          { share: 0.17, size: Math.max(1, Math.floor(input.batch / 4)), frames: input.frames, side: input.side * 2 },
          { share: input.stillShare, size: input.batch * 4, frames: 1, side: input.side },
        ],
      },
      {
        device: ctx.device as "cpu",
        ...(perception === undefined ? {} : { perception }),
        report: ({ step, metrics }) => ctx.progress(step, input.steps, "train", metrics),
        resumeFile: join(ctx.workDir, "state.safetensors"),
        breathe: () => ctx.breathe(),
      },
    );
    const clips = sampleClips(
      sources.map((s) => s.source),
      48,
      input,
    );
    try {
      const { mean, std } = latentStatistics(codec, clips);
      codec.setStatistics(mean, std);
      await codec.save(input.output, { dtype: "bfloat16" });
      return { path: input.output, seconds: (performance.now() - started) / 1000, psnr: evaluatePsnr(codec, clips) };
    } finally {
      for (const clip of clips) clip.dispose();
    }
  },
});

export default definePlugin({
  name: "stage-vae",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("objective", {
      id: "vae",
      summary: "L1, perceptual and KL terms of a video VAE",
      source: "Waver 7.2; Wan 4.1",
      runs: "device",
      options: weights.extend({ perception: z.string().default("efficientnet-lite0") }),
      traits: { tasks: ["t2i", "t2v"], fields: ["video"] },
      async run({ codec }, { options: { perception, ...w }, ctx }) {
        if (codec === undefined) throw new WaverError("needs_unmet", "the vae objective needs a codec to train");
        const { VaeObjective } = await import("./objective.ts");
        return new VaeObjective(
          codec,
          w,
          w.perceptual > 0 ? await (await ctx.use("perceive", perception))({}) : undefined,
        );
      },
    }),
  ],
  operations: { "train-vae": trainVae },
});
