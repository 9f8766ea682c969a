/**
 * The refiner at work (Waver 2.2): enlarge, encode, disturb with w_d of noise, integrate w from 1 to 0, decode.
 *
 * Axes: B batch, C channels, F H W pixels of the enlarged video, T h w latents.
 */
import { existsSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import {
  cat,
  Generator,
  interpolate,
  noGrad,
  openSafetensors,
  pad,
  randn,
  saveSafetensors,
  scope,
  type Tensor,
  zeros,
} from "../../native/index.ts";
import {
  type Codec,
  type Conditioning,
  type Context,
  type Denoiser,
  inForm,
  type Offload,
  type RefineRequest,
  type TextEncoder,
  useFitting,
  WaverError,
  type WeightForm,
  z,
} from "../index.ts";

export interface RefineOptions {
  /** Pipeline folder with refiner/, vae/ and text_encoder/. */
  readonly path: string;
  readonly shift: number;
  readonly offload: Offload;
  readonly weights?: WeightForm | undefined;
}

/** w_d of 0.9, the middle of the paper's range, at 1080p latents. */
const PAPER_WD = 0.9;
/** A step of a small refiner is quicker than the disk: its state is saved at most this often. */
const SAVE_MS = 2000;

type Parts = {
  readonly denoiser: Denoiser;
  readonly codec: Codec;
  readonly text: TextEncoder;
  readonly text2?: TextEncoder;
  /** Middle of the range that the refiner was trained on, where its pipeline says so. */
  readonly wd?: number | undefined;
};

export async function refine(request: RefineRequest, options: RefineOptions, ctx: Context): Promise<Tensor> {
  const parts = await load(options, ctx);
  const { video, prompt } = request;
  const [B, , F, H, W] = video.shape.map((n, axis) => (axis > 2 ? Math.round(n * request.scale) : n)) as [
    number,
    number,
    number,
    number,
    number,
  ];
  if (prompt.length !== B) throw new WaverError("shape_mismatch", `${prompt.length} prompts for ${B} videos`);
  const large = scope(() => noGrad(() => padded(enlarged(video, [H, W]), parts)));
  const fixed = scope(() =>
    noGrad(() => {
      const x = parts.codec.encode(large);
      const known = parts.denoiser.condition?.(
        zeros([B, 3, ...large.shape.slice(2)]),
        Array<boolean>(large.size(2)).fill(false),
        parts.codec,
      );
      const text = parts.text.encode(prompt);
      const text2 = parts.text2?.encode(prompt);
      using generator = new Generator(request.seed);
      const wd = request.wd ?? parts.wd ?? scaledNoise(PAPER_WD, x.size(3), x.size(4));
      return {
        xn: x.lerp(randn(x.shape, { generator }), wd),
        text,
        ...(text2 === undefined ? {} : { text2 }),
        ...(known === undefined ? {} : { known }),
      };
    }),
  );
  try {
    const refined = await integrated(request, options.shift, fixed, parts.denoiser, ctx);
    try {
      request.onLatents?.(refined);
      return scope(() =>
        noGrad(() => parts.codec.decode(refined).narrow(2, 0, F).narrow(3, 0, H).narrow(4, 0, W).contiguous()),
      );
    } finally {
      refined.dispose();
    }
  } finally {
    for (const each of [
      large,
      fixed.xn,
      ...Object.values(fixed.text),
      ...Object.values(fixed.text2 ?? {}),
      ...Object.values(fixed.known ?? {}),
    ])
      each.dispose();
  }
}

/** w from 1 to 0 by the family's own convention, saved on the way. */
async function integrated(
  request: RefineRequest,
  shift: number,
  fixed: { xn: Tensor; text: Conditioning; text2?: Conditioning; known?: { latents: Tensor; mask: Tensor } },
  denoiser: Denoiser,
  ctx: Context,
): Promise<Tensor> {
  const { xn, ...given } = fixed;
  const saved = join(ctx.workDir, "refining.safetensors");
  const earlier = existsSync(saved) ? readState(saved) : null;
  const sample = await ctx.use("sample", "euler");
  let savedAt = performance.now();
  try {
    const refined = await sample({
      latents: earlier?.x ?? xn,
      startStep: earlier?.step ?? 0,
      numSteps: request.numSteps,
      shift,
      convention: denoiser.convention,
      signal: request.signal,
      predict: (latents, t) => noGrad(() => denoiser.forward({ latents, t, ...given })),
      onStep: async ({ step, numSteps, latents }) => {
        if (performance.now() - savedAt > SAVE_MS) {
          saveSafetensors(saved, { x: latents }, { step: String(step + 1) });
          savedAt = performance.now();
        }
        ctx.progress(step + 1, numSteps, "refine");
        await ctx.breathe();
      },
    });
    await rm(saved, { force: true });
    return refined;
  } finally {
    earlier?.x.dispose();
  }
}

function readState(path: string): { x: Tensor; step: number } {
  using file = openSafetensors(path);
  return { x: scope(() => file.get("x").clone()), step: Number(file.metadata["step"]) };
}

/** Frames one by one, bicubic. */
function enlarged(video: Tensor, size: readonly [number, number]): Tensor {
  const [B, C, F, H, W] = video.shape as [number, number, number, number, number];
  const frames = interpolate(video.transpose(1, 2).reshape([B * F, C, H, W]), {
    size,
    mode: "bicubic",
    antialias: true,
  });
  return frames
    .clamp(-1, 1)
    .reshape([B, F, C, ...size])
    .transpose(1, 2);
}

/** Grown at the end to what codec and network can cut evenly: 1080 rows become 1088; cropped again after decoding. */
function padded(video: Tensor, { codec, denoiser }: Parts): Tensor {
  const [st, sh, sw] = codec.latent.stride;
  const [pt, ph, pw] = denoiser.patch ?? [1, 1, 1];
  const [F, H, W] = video.shape.slice(2) as [number, number, number];
  const up = (n: number, unit: number): number => Math.ceil(n / unit) * unit;
  const latentFrames = up(1 + Math.ceil((F - 1) / st), pt);
  const missing = 1 + (latentFrames - 1) * st - F;
  const whole = missing === 0 ? video : cat([video, video.narrow(2, F - 1, 1).expand([-1, -1, missing, -1, -1])], 2);
  return pad(whole, [0, up(W, sw * pw) - W, 0, up(H, sh * ph) - H, 0, 0], "replicate");
}

/** Equal signal-to-noise after pooling, as in training (plugins/stage-refine): 0.9 becomes 0.44 at 16x16. */
function scaledNoise(wd: number, h: number, w: number): number {
  const r = Math.sqrt((135 * 240) / (h * w));
  return 1 / (1 + (r * (1 - wd)) / wd);
}

/** What training left in `model_index.json`: the objective's options of each component. */
const Trained = z.object({
  _waver: z.object({
    trained: z.object({ refiner: z.object({ wd: z.tuple([z.number(), z.number()]), scaleWd: z.literal(false) }) }),
  }),
});

function trainedNoise(index: unknown): number | undefined {
  const found = Trained.safeParse(index);
  if (!found.success) return undefined;
  const [low, high] = found.data._waver.trained.refiner.wd;
  return (low + high) / 2;
}

async function load({ path, offload, weights }: RefineOptions, ctx: Context): Promise<Parts> {
  const index = JSON.parse(readFileSync(join(path, "model_index.json"), "utf8")) as Record<
    string,
    [string, string] | undefined
  >;
  const loaded = async (hook: "family" | "codec" | "encodeText", component: string): Promise<unknown> => {
    const name = index[component]?.[1];
    if (name == null) return undefined;
    const provider = ctx.providers(hook).find(({ traits }) => traits.classes.includes(name));
    if (provider === undefined)
      throw new WaverError("no_provider", `no installed plugin loads ${name}, the ${component} of ${path}`);
    const options = { path: join(path, component) };
    // What a refiner adds is less than what bfloat16 rounds away in the codec.
    if (hook === "codec") return (await ctx.use(hook, provider.id, { ...options, dtype: "float32" }))({});
    const formed = inForm(options, weights, { hook, id: provider.id }, ctx);
    return (await useFitting(hook, provider.id, formed, weights === undefined ? offload : "none", ctx))({});
  };
  const [denoiser, codec, text, text2] = [
    await loaded("family", "refiner"),
    await loaded("codec", "vae"),
    await loaded("encodeText", "text_encoder"),
    await loaded("encodeText", "text_encoder_2"),
  ];
  if (denoiser === undefined || codec === undefined || text === undefined)
    throw new WaverError(
      "checkpoint_missing",
      `${path} has no refiner, or lacks the VAE or text encoder that it needs`,
      { hint: "train one: waver train --component refiner" },
    );
  return { denoiser, codec, text, wd: trainedNoise(index), ...(text2 === undefined ? {} : { text2 }) } as Parts;
}
