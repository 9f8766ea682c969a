/** One `generate` job: what it loads, how a batch is denoised, how a sample becomes a file. */
import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { version } from "../../package.json";
import {
  type AcceleratorMemory,
  type Codec,
  type Conditioning,
  type Context,
  type Denoiser,
  Digest,
  type Offload,
  type Pick,
  type Picks,
  Task,
  useFitting,
  WaverError,
} from "../../plugins/index.ts";
import { Acceleration, type Denoised, type Drift } from "./acceleration.ts";
import { adapted, described, namedAdapters } from "./adapters.ts";
import { Conditions, optionsOf } from "./conditions.ts";
import { fileDigest } from "./digest.ts";
import { Experts, recording } from "./experts.ts";
import { Guides } from "./guides.ts";
import { handedOut } from "./handed-out.ts";
import type { Meter } from "./meter.ts";
import { negativeOf, type Pipeline } from "./pipeline.ts";
import { encodePng, writePreview } from "./png.ts";
import { type GenerateInput, keepsWhole, type Sample } from "./request.ts";
import { samplerOf } from "./sampling.ts";
import { Shape, shapeOf } from "./shape.ts";

export const Item = z.object({
  prompt: z.string(),
  /** The prompt before it was rewritten. */
  asked: z.string().optional(),
  seed: z.int(),
  task: Task,
  path: z.string(),
  digest: Digest,
  latents: z.string().optional(),
  frames: z.string().optional(),
  /** Decibels at which the video decodes to its frames, where that was asked for; null: exactly. */
  psnr: z.number().nullable().optional(),
});
export type Item = z.output<typeof Item>;

/** Denoising is saved every two seconds at most, and for a tenth of its time: an accelerator may remember gigabytes. */
const SAVE_MS = 2000;
const SAVE_SHARE = 0.1;

interface GenerationParts {
  readonly request: GenerateInput;
  readonly picks: Picks;
  readonly model: Pipeline;
  readonly ctx: Context;
  readonly meter: Meter;
  /** Components whose weights come and go, as planned; null where nothing could be planned. */
  readonly offload: readonly string[] | null;
}

/** Everything a job loads, each once and only when something is left to do. */
export class Generation implements Disposable {
  #encoded: Conditions | undefined;
  #denoisers: Experts | undefined;

  private readonly request: GenerateInput;
  private readonly picks: Picks;
  private readonly model: Pipeline;
  private readonly ctx: Context;
  readonly #meter: Meter;
  readonly #offload: readonly string[] | null;

  constructor({ request, picks, model, ctx, meter, offload }: GenerationParts) {
    this.#offload = offload;
    this.request = request;
    this.picks = picks;
    this.model = model;
    this.ctx = ctx;
    this.#meter = meter;
  }

  [Symbol.dispose](): void {
    this.#encoded?.[Symbol.dispose]();
    this.#denoisers?.[Symbol.dispose]();
  }

  readonly #tensors = once(() => import("../runner/generation/tensors.ts"));
  readonly #decode = once(() => import("../runner/generation/decode.ts"));
  readonly #codec = once(async (): Promise<Codec> => {
    const { id, path, options } = this.model.codec;
    return (await this.ctx.use("codec", id, { path, ...options }))({});
  });
  readonly #experts = once(async (): Promise<Experts> => {
    const adapters = await this.#adapters(); // one that is not there is said before anything is loaded
    await this.#conditions(); // before the largest network comes: the encoders may have to make room for it
    this.#denoisers = new Experts(this.model, {
      open: (component) => {
        const options = optionsOf(this.request, component, "family", this.ctx);
        return useFitting("family", component.id, options, this.#wish(component.name), this.ctx);
      },
      adapt: (network, which) => adapted(adapters[which], network, this.ctx),
      ...(this.request.graph ? { record: (network) => recording(network, this.picks, this.ctx) } : {}),
    });
    return this.#denoisers;
  });
  readonly #conditions = once(async () => {
    const wish = (component: string): Offload => this.#wish(component);
    this.#encoded = await Conditions.encode(this.request, this.model, this.ctx, this.#meter, wish);
    return this.#encoded;
  });

  /** Of what the plan leaves whole, memory may still be short when its turn comes: other jobs have theirs. */
  #wish(component: string): Offload {
    if (keepsWhole(this.request)) return "none";
    return this.#offload?.includes(component) === true ? "blocks" : this.request.offload;
  }

  /** Whichever denoiser is in use: what is asked of it here, all of a model share. */
  async #family(): Promise<Denoiser> {
    return (await this.#experts()).any();
  }

  /** Those of the first denoiser and of the second. */
  readonly #adapters = once(async () => {
    const { lora, lora2 } = this.request;
    if (lora2 !== undefined) this.#refuseSecond("lora2");
    const first = await namedAdapters(lora, this.ctx);
    return [first, lora2 === undefined ? first : await namedAdapters(lora2, this.ctx)] as const;
  });

  /** Found once a job: a resumed one that only has to decode loads no network for it. */
  readonly #shape = once(() =>
    this.ctx.unit("shape", Shape, async () =>
      shapeOf(this.request, this.model, { codec: await this.#codec(), family: await this.#family() }, this.ctx),
    ),
  );

  /** Denoises a batch, with the accelerator that was picked or, `isPlain`, beside it and without. */
  async denoise(batch: readonly Sample[], { isPlain = false } = {}): Promise<Denoised> {
    const { ctx, request } = this;
    const t = await this.#tensors();
    const { numSteps, latents: shape } = await this.#shape();
    const [experts, family, sample] = [
      await this.#experts(),
      await this.#family(),
      await samplerOf(this.model, this.picks, ctx),
    ];
    const guides = await this.#guides();
    const codec = this.#codec;
    const name = `latents-${(batch[0] as Sample).index}${isPlain ? "-plain" : ""}.safetensors`;
    const saved = join(ctx.workDir, `.${name}.progress`);
    using held = new t.Held();
    using preview = new (await import("../runner/generation/preview.ts")).Preview(family.convention);
    const branches = new (await import("../runner/generation/branches.ts")).Branches();
    let shown: object | undefined;
    const conditions = await this.#conditions();
    const known = held.keep(await conditions.known(family, await codec(), await this.#shape(), batch.length));
    const image = held.keep(conditions.image(family, batch.length));
    const texts = {
      positive: held.keep(
        conditions.texts(
          family,
          batch.map(({ prompt }) => prompt),
        ),
      ),
      negative: held.keep(
        conditions.texts(
          family,
          batch.map(() => negativeOf(request, this.model)),
        ),
      ),
    };
    const before = held.keep(t.loadProgress(saved, ctx.device));
    if (before !== undefined) guides.restore(before.guides);
    using cache = isPlain ? undefined : await this.#acceleration(before?.memory);
    const start = held.keep(
      t.started(batch, ctx.device, ({ seed, index }) =>
        request.latents === undefined ? t.noise(shape, seed) : t.readLatents(request.latents, shape, index),
      ),
    );
    const guided = t.quietly((x, time, at) => {
      const predictions = branches.of(experts.current, (branch) => {
        const [text, text2] = texts[branch];
        return { latents: x, t: time, text: text as Conditioning, ...given({ text2, known, image }) };
      });
      const { which } = experts.current;
      const accelerated = cache?.around(predictions, { network: which, ...at }) ?? predictions;
      return guides.of(which)({
        ...at,
        latents: x,
        predict(branch, how) {
          if (how?.skipLayers !== undefined)
            throw new WaverError("needs_unmet", "this guide leaves layers out, which no family offers yet");
          return accelerated(branch);
        },
      });
    });
    const startedAt = performance.now();
    let [savedAt, cost] = [startedAt, 0];
    const denoising = isPlain ? undefined : this.#meter.start("denoise");
    const latents = await sample({
      latents: before?.latents ?? start,
      startStep: before === undefined ? 0 : before.step + 1,
      ...(before === undefined ? {} : { state: before.state }),
      numSteps,
      shift: request.shift,
      convention: family.convention,
      signal: ctx.signal,
      beforeStep: (at) => experts.select(at.t),
      predict: preview.watching((...step) =>
        isPlain ? guided(...step) : this.#meter.computing("denoise", () => guided(...step)),
      ),
      async onStep({ step, latents: x, state = {} }) {
        t.assertFinite(x, "denoising", ` at step ${step + 1} of ${numSteps}`);
        const now = performance.now();
        if (step + 1 < numSteps && now - savedAt > Math.max(SAVE_MS, cost / SAVE_SHARE)) {
          t.saveProgress(saved, { step, latents: x, state, guides: () => guides.save(), memory: cache?.memory() });
          savedAt = performance.now();
          cost = savedAt - now;
        }
        const picture = preview.isReady ? preview.take(await codec()) : undefined;
        if (picture !== undefined) {
          await writePreview(ctx.workDir, picture);
          shown = { preview: { sample: batch[0]?.index, step: step + 1 } };
        }
        const samples = batch.map(({ index }) => index);
        const stage = isPlain ? "denoise without cache" : "denoise";
        ctx.progress(step + 1, numSteps, stage, { samples, ...cache?.detail, ...shown });
        await ctx.breathe();
      },
    });
    denoising?.end();
    const seconds = (performance.now() - startedAt) / 1000;
    held.keep(latents);
    const finished = known === undefined ? undefined : held.keep(family.finish?.(latents, known));
    t.saveLatents(join(ctx.workDir, name), finished ?? latents);
    await t.forgetProgress(saved);
    return {
      file: name,
      ...(before === undefined ? { seconds } : {}),
      ...(cache === undefined ? {} : { spared: cache.spared, isMeasured: cache.isMeasured }),
    };
  }

  /** How far a sample is from the one that was denoised without the accelerator. */
  async drift({ index }: Sample, row: number, [file, plain]: readonly [string, string]): Promise<Drift> {
    const { ctx } = this;
    const t = await this.#tensors();
    const { numFrames } = await this.#shape();
    const { driftBetween } = await import("../runner/generation/drift.ts");
    using held = new t.Held();
    const read = (name: string) => held.keep(t.loadLatents(join(ctx.workDir, name), row, ctx.device));
    const drift = await driftBetween(await this.#codec(), [read(file), read(plain)], (done) => {
      ctx.progress(done, numFrames, "compare", { sample: index });
      return ctx.breathe();
    });
    return { sample: index, ...drift };
  }

  /** Decodes one row of a latents file into a video or image, published with its recipe. */
  async decode(sample: Sample, file: string, row: number, total: number): Promise<Item> {
    const { ctx, request } = this;
    const t = await this.#tensors();
    const { task, fps, numFrames } = await this.#shape();
    const recipe = await this.#recipe(sample);
    const metadata = request.metadata ? recipe : undefined;
    const kind = task === "t2i" ? "image" : "video";
    const stem = join(ctx.workDir, `sample-${sample.index}`);
    const made = `${stem}${kind === "image" ? ".png" : ".mp4"}`;
    using latents = t.loadLatents(file, row, ctx.device);
    const { decoded, forgetDecode } = await this.#decode();
    using video = decoded(await this.#codec(), latents, {
      fps,
      keep: request.keepFrames,
      resume: stem,
      computing: (work) => this.#meter.computing("decode", work),
      breathe: (done) => {
        ctx.progress(done, numFrames, "decode", { sample: sample.index });
        return ctx.breathe();
      },
    });
    const decoding = this.#meter.start("decode");
    let psnr: number | undefined;
    if (kind === "image") {
      for await (const { data, width, height } of video.frames)
        await writeFile(made, encodePng(data, width, height, metadata && JSON.stringify(metadata)));
    } else
      ({ psnr } = await ctx.media.writeVideo(made, video.frames, {
        fps,
        minPsnr: request.minPsnr,
        signal: ctx.signal,
        ...(metadata === undefined ? {} : { metadata }),
      }));
    decoding.end();
    if (psnr !== undefined && psnr < request.minPsnr)
      ctx.log("fidelity_not_reached", { level: "warn", sample: sample.index, psnr, minPsnr: request.minPsnr });
    await forgetDecode(stem);
    const images = [request.image, request.lastImage].filter((path) => path !== undefined);
    const [lora, lora2] = await this.#adapters();
    const publish = async (path: string, what: string): Promise<{ digest: Digest; path: string }> => {
      const digest = await ctx.store.publish(path, {
        kind: what,
        inputs: [
          { role: "model", digest: this.model.digest },
          ...this.model.replaced.map(({ digest }) => ({ role: "component", digest })),
          ...(await Promise.all(
            images.map(async (image) => ({ role: "image", digest: await fileDigest(image, ctx) })),
          )),
          ...[...new Set([...lora, ...lora2])].map(({ digest }) => ({ role: "adapter", digest })),
        ],
        by: { operation: "generate", version },
        options: recipe,
        seed: sample.seed,
      });
      return { digest, path: await handedOut(digest, path, { ...sample, total, output: request.output }, ctx) };
    };
    if (request.keepFrames) video.save(`${stem}.frames.safetensors`);
    if (request.keepLatents) t.saveLatents(`${stem}.latents.safetensors`, latents);
    return {
      prompt: sample.prompt,
      ...given({ asked: sample.asked }),
      seed: sample.seed,
      task,
      ...(psnr === undefined ? {} : { psnr: Number.isFinite(psnr) ? psnr : null }),
      ...(await publish(made, kind)),
      ...(request.keepFrames ? { frames: (await publish(`${stem}.frames.safetensors`, "frames")).path } : {}),
      ...(request.keepLatents ? { latents: (await publish(`${stem}.latents.safetensors`, "latents")).path } : {}),
    };
  }

  /** Of their own for each batch, since some remember earlier steps. */
  async #guides(): Promise<Guides> {
    if (this.picks["guide2"] !== undefined) this.#refuseSecond("guide2");
    return Guides.open(this.picks, this.ctx);
  }

  async #acceleration(memory: AcceleratorMemory | undefined): Promise<Acceleration | undefined> {
    const picked = this.picks["cache"] as Pick | undefined;
    if (picked === undefined) return undefined;
    const { id, ...options } = picked;
    const make = await this.ctx.use("accelerate", id, options);
    return Acceleration.open((earlier) => make({ memory: earlier }), memory);
  }

  #refuseSecond(field: string): void {
    if (this.model.family2 !== undefined) return;
    throw new WaverError("invalid_input", `${field} is for models of two denoisers, and this one has one`, {
      hint: `leave ${field} out`,
    });
  }

  async #recipe({ prompt, asked, seed }: Sample): Promise<Record<string, unknown>> {
    const { task, width, height, numFrames, fps, numSteps } = await this.#shape();
    const { request, model, picks } = this;
    const [lora, lora2] = await this.#adapters();
    return {
      waver: version,
      model: model.digest,
      components: Object.fromEntries(
        [...model.texts, model.image, model.family, model.family2, model.codec, model.sampler].flatMap((each) =>
          each === undefined ? [] : [[each.name, each.className]],
        ),
      ),
      ...{ task, prompt, negativePrompt: negativeOf(request, model), seed, width, height, numFrames, fps, numSteps },
      ...(asked === undefined ? {} : { asked, rewrite: picks["rewrite"] }),
      ...(request.shift === undefined ? {} : { shift: request.shift }),
      ...(request.weights === undefined ? {} : { weights: request.weights }),
      ...(model.codec.options["tiling"] === undefined ? {} : { tiling: model.codec.options["tiling"] }),
      ...(request.latents === undefined ? {} : { latents: basename(request.latents) }),
      ...(model.replaced.length === 0
        ? {}
        : { replaced: model.replaced.map(({ name, digest }) => ({ name, digest })) }),
      ...(request.lora.length === 0 ? {} : { lora: described(lora) }),
      ...(request.lora2 === undefined ? {} : { lora2: described(lora2) }),
      sampler: picks["sampler"] ?? { id: model.sampler.id },
      guide: picks["guide"],
      ...(picks["guide2"] === undefined ? {} : { guide2: picks["guide2"] }),
      ...(picks["cache"] === undefined ? {} : { cache: picks["cache"] }),
    };
  }
}

/** Only what is there: an absent field and an undefined one differ in the contract. */
const given = <T extends object>(fields: T): { [K in keyof T]?: NonNullable<T[K]> } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>;
  };

/** Runs `make` at its first call and hands out that result ever after. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}
