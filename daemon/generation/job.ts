/** One `generate` job: what it loads, how a batch is denoised, how a sample becomes a file. */
import { chmod, copyFile, mkdir, rename, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { z } from "zod";
import { version } from "../../package.json";
import {
  type Codec,
  type Conditioning,
  type Context,
  type Denoiser,
  Digest,
  type Guide,
  type Pick,
  type Picks,
  SampleDefaults,
  Task,
  type Used,
  WaverError,
} from "../../plugins/index.ts";
import { adapted, namedAdapters } from "./adapters.ts";
import { fileDigest } from "./digest.ts";
import { type Pipeline, pathFor } from "./pipeline.ts";
import { encodePng, writePreview } from "./png.ts";
import { checkSize, framesIn, type GenerateInput, resolved, type Sample, samplesOf, taskOf } from "./request.ts";

export const Item = z.object({
  prompt: z.string(),
  seed: z.int(),
  task: Task,
  path: z.string(),
  digest: Digest,
  latents: z.string().optional(),
  frames: z.string().optional(),
});
export type Item = z.output<typeof Item>;

/** The sizes of every sample and the task they add up to. `latents`: [1 C T h w]. */
const Shape = SampleDefaults.extend({ task: Task, latents: z.array(z.int()) });
type Shape = z.output<typeof Shape>;

/** Denoising is saved at most this often: a step of a small model is quicker than the disk. */
const SAVE_MS = 2000;

/** Everything a job loads, each once and only when something is left to do. */
export class Generation implements Disposable {
  readonly #texts = new Map<string, Conditioning[]>();

  constructor(
    private readonly request: GenerateInput,
    private readonly picks: Picks,
    private readonly model: Pipeline,
    private readonly ctx: Context,
  ) {}

  [Symbol.dispose](): void {
    for (const { states, mask } of [...this.#texts.values()].flat()) {
      states.dispose();
      mask.dispose();
    }
  }

  readonly #tensors = once(() => import("../runner/generation/tensors.ts"));
  readonly #decode = once(() => import("../runner/generation/decode.ts"));
  readonly #codec = once(
    async (): Promise<Codec> =>
      (await this.ctx.use("codec", this.model.codec.id, this.#options(this.model.codec.path, { dtype: false })))({}),
  );
  readonly #family = once(async (): Promise<Denoiser> => {
    await this.#encodeTexts(); // before the largest network comes: the encoders may have to make room for it
    return (await this.ctx.use("family", this.model.family.id, this.#options(this.model.family.path)))({});
  });

  readonly #adapters = once(() => namedAdapters(this.request.lora, this.ctx));

  /** Found once a job: a resumed one that only has to decode loads no network for it. */
  readonly #shape = once(() => this.ctx.unit("shape", Shape, () => this.#findShape()));

  async #findShape(): Promise<Shape> {
    const [codec, family] = [await this.#codec(), await this.#family()];
    const from = [this.request, this.model.defaults, family.defaults ?? {}];
    const fps = resolved("fps", ...from, { fps: 16 });
    const { seconds } = this.request;
    const size = {
      width: resolved("width", ...from),
      height: resolved("height", ...from),
      numFrames:
        seconds === undefined ? resolved("numFrames", ...from) : framesIn(seconds, fps, codec.latent.stride[0]),
    };
    checkSize(size, codec.latent, family.patch);
    if (codec.latent.channels !== family.latent.channels)
      throw new WaverError(
        "checkpoint_mismatch",
        `the VAE has ${codec.latent.channels} latent channels, the denoiser takes ${family.latent.channels}`,
      );
    const task = taskOf(this.request, size.numFrames);
    const tasks: readonly Task[] =
      this.ctx.providers("family").find(({ id }) => id === this.model.family.id)?.traits.tasks ?? [];
    if (!tasks.includes(task))
      throw new WaverError("invalid_input", `${this.model.family.className} does not do ${task}`, {
        hint: `it does ${tasks.join(", ")}`,
      });
    const [ft, fh, fw] = codec.latent.stride;
    return {
      ...size,
      task,
      latents: [1, codec.latent.channels, 1 + (size.numFrames - 1) / ft, size.height / fh, size.width / fw],
      fps,
      numSteps: resolved("numSteps", ...from),
    };
  }

  /** Denoises a batch; returns the name of the file with its latents. */
  async denoise(batch: readonly Sample[]): Promise<string> {
    const { ctx, request } = this;
    const t = await this.#tensors();
    const { numSteps, latents: shape } = await this.#shape();
    const adapters = await this.#adapters(); // one that is not there is said before anything is loaded
    const [family, guide, sample] = [await this.#family(), await this.#guide(), await this.#sampler()];
    const withAdapters = await adapted(adapters, family, ctx);
    const codec = this.#codec;
    const name = `latents-${(batch[0] as Sample).index}.safetensors`;
    const saved = join(ctx.workDir, `.${name}.progress`);
    using held = new t.Held();
    using preview = new (await import("../runner/generation/preview.ts")).Preview(family.convention);
    let shown: object | undefined;
    const known = held.keep(await this.#known(batch.length));
    const texts = {
      positive: held.keep(await this.#joined(batch.map(({ prompt }) => prompt))),
      negative: held.keep(await this.#joined(batch.map(() => request.negativePrompt))),
    };
    const before = held.keep(t.loadProgress(saved, ctx.device));
    const start = held.keep(
      t.started(batch, ctx.device, ({ seed, index }) =>
        request.latents === undefined ? t.noise(shape, seed) : t.readLatents(request.latents, shape, index),
      ),
    );
    let savedAt = performance.now();
    const latents = await sample({
      latents: before?.latents ?? start,
      startStep: before === undefined ? 0 : before.step + 1,
      ...(before === undefined ? {} : { state: before.state }),
      numSteps,
      shift: request.shift,
      convention: family.convention,
      signal: ctx.signal,
      predict: preview.watching(
        t.quietly((x, time, at) =>
          guide({
            ...at,
            latents: x,
            predict(branch, how) {
              if (how?.skipLayers !== undefined)
                throw new WaverError("needs_unmet", "this guide leaves layers out, which no family offers yet");
              const [text, text2] = texts[branch];
              const input = { latents: x, t: time, text: text as Conditioning, ...given({ text2, known }) };
              return withAdapters(() => family.forward(input));
            },
          }),
        ),
      ),
      async onStep({ step, latents: x, state = {} }) {
        t.assertFinite(x, "denoising", ` at step ${step + 1} of ${numSteps}`);
        if (step + 1 < numSteps && performance.now() - savedAt > SAVE_MS) {
          t.saveProgress(saved, { step, latents: x, state });
          savedAt = performance.now();
        }
        const picture = preview.isReady ? preview.take(await codec()) : undefined;
        if (picture !== undefined) {
          await writePreview(ctx.workDir, picture);
          shown = { preview: { sample: batch[0]?.index, step: step + 1 } };
        }
        ctx.progress(step + 1, numSteps, "denoise", { samples: batch.map(({ index }) => index), ...shown });
        await ctx.breathe();
      },
    });
    t.saveLatents(join(ctx.workDir, name), held.keep(latents));
    await t.forgetProgress(saved);
    return name;
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
      breathe: (done) => {
        ctx.progress(done, numFrames, "decode", { sample: sample.index });
        return ctx.breathe();
      },
    });
    if (kind === "image") {
      for await (const { data, width, height } of video.frames)
        await writeFile(made, encodePng(data, width, height, metadata && JSON.stringify(metadata)));
    } else
      await ctx.media.writeVideo(made, video.frames, {
        fps,
        signal: ctx.signal,
        ...(metadata === undefined ? {} : { metadata }),
      });

    await forgetDecode(stem);
    const images = [request.image, request.lastImage].filter((path) => path !== undefined);
    const adapters = await this.#adapters();
    const publish = async (path: string, what: string): Promise<{ digest: Digest; path: string }> => {
      const digest = await ctx.store.publish(path, {
        kind: what,
        inputs: [
          { role: "model", digest: this.model.digest },
          ...(await Promise.all(
            images.map(async (image) => ({ role: "image", digest: await fileDigest(image, ctx) })),
          )),
          ...adapters.map(({ digest }) => ({ role: "adapter", digest })),
        ],
        by: { operation: "generate", version },
        options: recipe,
        seed: sample.seed,
      });
      return { digest, path: await this.#handOut(digest, path, sample, total) };
    };
    if (request.keepFrames) video.save(`${stem}.frames.safetensors`);
    if (request.keepLatents) t.saveLatents(`${stem}.latents.safetensors`, latents);
    return {
      prompt: sample.prompt,
      seed: sample.seed,
      task,
      ...(await publish(made, kind)),
      ...(request.keepFrames ? { frames: (await publish(`${stem}.frames.safetensors`, "frames")).path } : {}),
      ...(request.keepLatents ? { latents: (await publish(`${stem}.latents.safetensors`, "latents")).path } : {}),
    };
  }

  /** Every prompt goes through every encoder once. */
  async #encodeTexts(): Promise<void> {
    const { ctx, model, request } = this;
    const t = await this.#tensors();
    const texts = [...new Set([...samplesOf(request).map(({ prompt }) => prompt), request.negativePrompt])];
    for (const { name, id, path } of model.texts) {
      const tokenizer = join(model.folder, name.replace("text_encoder", "tokenizer"));
      using use = await ctx.use(
        "encodeText",
        id,
        this.#options(path, {
          tokenizer,
          ...(request.maxTokens === undefined ? {} : { maxTokens: request.maxTokens }),
        }),
      );
      const encoder = await use({});
      for (const [i, text] of texts.entries()) {
        const encoded = encoder.encode([text]);
        t.assertFinite(encoded.states, `the text encoder ${name}`);
        this.#texts.set(text, [...(this.#texts.get(text) ?? []), encoded]);
        ctx.progress(i + 1, texts.length, name);
        await ctx.breathe();
      }
    }
  }

  /** One conditioning an encoder, for a batch of prompts. */
  async #joined(prompts: readonly string[]): Promise<Conditioning[]> {
    const t = await this.#tensors();
    const { textLength } = await this.#family();
    const length = textLength === undefined ? undefined : (this.request.maxTokens ?? textLength);
    return this.model.texts.map((_, i) =>
      t.joinTexts(
        prompts.map((prompt) => (this.#texts.get(prompt) as Conditioning[])[i] as Conditioning),
        length,
      ),
    );
  }

  /** Known frames for networks that take them; all unknown when the task is text alone. */
  async #known(batch: number): Promise<ReturnType<NonNullable<Denoiser["condition"]>> | undefined> {
    const { ctx, request } = this;
    const [t, codec, family, size] = [
      await this.#tensors(),
      await this.#codec(),
      await this.#family(),
      await this.#shape(),
    ];
    const given = [
      { at: 0, path: request.image },
      { at: size.numFrames - 1, path: request.lastImage },
    ].filter((each): each is { at: number; path: string } => each.path !== undefined);
    if (family.condition === undefined) {
      if (given.length > 0)
        throw new WaverError(
          "invalid_input",
          `this ${this.model.family.className} checkpoint makes video from text only`,
          { hint: "leave image out, or use an image-to-video checkpoint" },
        );
      return undefined;
    }
    const images = await Promise.all(
      given.map(async ({ at, path }) => ({ at, image: await ctx.media.image(path, size) })),
    );
    const isKnown = Array.from({ length: size.numFrames }, (_, i) => given.some(({ at }) => at === i));
    return t.knownFrames(family, codec, t.placedFrames(images, size), isKnown, batch, ctx.device);
  }

  async #sampler(): Promise<Used<"sample">> {
    const { ctx, model, picks } = this;
    const { id, ...options } = (picks["sampler"] as Pick | undefined) ?? { id: model.sampler.id };
    return ctx.use("sample", id, { ...pathFor(model.sampler, id, "sample", ctx), ...options });
  }

  /** A guide of its own for each batch: some remember earlier steps. */
  async #guide(): Promise<Guide> {
    const { id, ...options } = this.picks["guide"] as Pick;
    return (await this.ctx.use("guide", id, options))({});
  }

  async #recipe({ prompt, seed }: Sample): Promise<Record<string, unknown>> {
    const { task, width, height, numFrames, fps, numSteps } = await this.#shape();
    const { request, model, picks } = this;
    return {
      waver: version,
      model: model.digest,
      components: Object.fromEntries(
        [...model.texts, model.family, model.codec, model.sampler].map(({ name, className }) => [name, className]),
      ),
      ...{ task, prompt, negativePrompt: request.negativePrompt, seed, width, height, numFrames, fps, numSteps },
      ...(request.shift === undefined ? {} : { shift: request.shift }),
      ...(request.latents === undefined ? {} : { latents: basename(request.latents) }),
      ...(request.lora.length === 0
        ? {}
        : { lora: (await this.#adapters()).map(({ name, digest, weight }) => ({ name, digest, weight })) }),
      sampler: picks["sampler"] ?? { id: model.sampler.id },
      guide: picks["guide"],
    };
  }

  /** The published file under the name that was asked for; without one, where the store keeps it. */
  async #handOut(digest: Digest, made: string, { index, seed, prompt }: Sample, total: number): Promise<string> {
    const { output } = this.request;
    if (output === undefined) return this.ctx.store.path(digest);
    const ending = basename(made).slice(basename(made).indexOf("."));
    const isFile =
      extname(output) === ending || (total === 1 && extname(output) !== "" && ending.endsWith(".safetensors"));
    if (isFile && total > 1)
      throw new WaverError("invalid_input", `output names one file for ${total} results`, { hint: "give a folder" });
    const slug = prompt
      .toLowerCase()
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .replace(/^-|-$/g, "")
      .slice(0, 40);
    const target = isFile
      ? output.slice(0, output.length - extname(output).length) + ending
      : join(output, `${String(index).padStart(3, "0")}-${slug || "sample"}-${seed}${ending}`);
    await mkdir(dirname(target), { recursive: true });
    await copyFile(await this.ctx.store.path(digest), `${target}.tmp`);
    await chmod(`${target}.tmp`, 0o644); // what the store keeps is read-only, the user's copy is the user's
    await rename(`${target}.tmp`, target);
    return target;
  }

  #options(path: string, more: Record<string, unknown> = {}): Record<string, unknown> {
    const { dtype = this.request.dtype, ...rest } = more;
    return { path, ...(dtype === undefined || dtype === false ? {} : { dtype }), ...rest };
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
