/**
 * What the network is told beside its noise: every text and picture goes through its encoders once a job, before the
 * network itself is loaded, and known frames through the codec.
 */
import {
  type Codec,
  type Conditioning,
  type Context,
  type Denoiser,
  type DenoiserInput,
  inForm,
  type KnownFrames,
  type Offload,
  useFitting,
  WaverError,
} from "../../plugins/index.ts";
import type { Meter } from "./meter.ts";
import { type Picture, placePictures, readPictures } from "./pictures.ts";
import { type Component, negativeOf, type Pipeline } from "./pipeline.ts";
import { type GenerateInput, type Size, samplesOf } from "./request.ts";

type ImageTokens = NonNullable<DenoiserInput["image"]>;
type Tensors = typeof import("../runner/generation/tensors.ts");

/** What a component is loaded with. */
export const optionsOf = (
  { dtype, weights }: GenerateInput,
  { id, path, options }: Component,
  hook: "family" | "encodeText",
  ctx: Context,
): Readonly<Record<string, unknown>> =>
  inForm({ path, ...options, ...(dtype === undefined ? {} : { dtype }) }, weights, { hook, id }, ctx);

export class Conditions implements Disposable {
  readonly #request: GenerateInput;
  readonly #model: Pipeline;
  readonly #ctx: Context;
  readonly #meter: Meter;
  readonly #tensors: Tensors;
  /** One of each encoder, by text. */
  readonly #texts = new Map<string, Conditioning[]>();
  /** First picture before last. */
  readonly #images: ImageTokens[] = [];
  #pictures: Picture[] | undefined;
  /** Of one sample: the same for all. */
  #known: KnownFrames | undefined;

  private constructor(request: GenerateInput, model: Pipeline, ctx: Context, meter: Meter, tensors: Tensors) {
    this.#meter = meter;
    this.#request = request;
    this.#model = model;
    this.#ctx = ctx;
    this.#tensors = tensors;
  }

  /** `wish` says of a component whether its weights come and go. */
  static async encode(
    request: GenerateInput,
    model: Pipeline,
    ctx: Context,
    meter: Meter,
    wish: (component: string) => Offload,
  ): Promise<Conditions> {
    const conditions = new Conditions(request, model, ctx, meter, await import("../runner/generation/tensors.ts"));
    try {
      await conditions.#encodeTexts(wish);
      await conditions.#encodePictures();
      return conditions;
    } catch (error) {
      conditions[Symbol.dispose]();
      throw error;
    }
  }

  async #encodeTexts(wish: (component: string) => Offload): Promise<void> {
    const request = this.#request;
    const texts = [...new Set([...samplesOf(request).map(({ prompt }) => prompt), negativeOf(request, this.#model)])];
    for (const component of this.#model.texts) {
      const { name, id } = component;
      const options = {
        ...optionsOf(request, component, "encodeText", this.#ctx),
        ...(request.maxTokens === undefined ? {} : { maxTokens: request.maxTokens }),
      };
      using use = await useFitting("encodeText", id, options, wish(name), this.#ctx);
      const encoder = await use({});
      for (const [i, text] of texts.entries()) {
        const encoded = this.#meter.during("text", () => encoder.encode([text]));
        this.#texts.set(text, [...(this.#texts.get(text) ?? []), encoded]);
        this.#tensors.assertFinite(encoded.states, `the text encoder ${name}`);
        this.#ctx.progress(i + 1, texts.length, name);
        await this.#ctx.breathe();
      }
    }
  }

  async #encodePictures(): Promise<void> {
    const { image } = this.#model;
    if (image === undefined) return;
    this.#pictures = await readPictures(this.#request, this.#ctx);
    if (this.#pictures.length === 0) return;
    using use = await this.#ctx.use("encodeImage", image.id, { path: image.path, ...image.options });
    const encoder = await use({});
    for (const picture of this.#pictures) {
      const encode = () => this.#tensors.encodePicture(encoder, picture.image, this.#ctx.device);
      this.#images.push(this.#meter.during("image", encode));
      await this.#ctx.breathe();
    }
  }

  /** One conditioning an encoder, for a batch of prompts. */
  texts({ textLength }: Denoiser, prompts: readonly string[]): Conditioning[] {
    const length = textLength === undefined ? undefined : (this.#request.maxTokens ?? textLength);
    return this.#model.texts.map((_, i) =>
      this.#tensors.joinTexts(
        prompts.map((prompt) => (this.#texts.get(prompt) as Conditioning[])[i] as Conditioning),
        length,
      ),
    );
  }

  /** Tokens of the pictures, for networks that read them. */
  image({ numImages }: Denoiser, batch: number): ImageTokens | undefined {
    if (numImages === undefined) return undefined;
    if (this.#model.image === undefined)
      throw new WaverError("checkpoint_invalid", `${this.#model.folder}: model_index.json names no image_encoder`, {
        hint: `this ${this.#model.family.className} reads its image through one`,
      });
    return this.#tensors.joinTokens(this.#images.slice(0, numImages), batch);
  }

  /** Known frames for networks that take them; all unknown when the task is text alone. */
  async known(family: Denoiser, codec: Codec, size: Size, batch: number): Promise<KnownFrames | undefined> {
    if (family.condition === undefined) return undefined;
    this.#pictures ??= await readPictures(this.#request, this.#ctx);
    if (this.#known === undefined) {
      const placed = placePictures(this.#pictures, size, this.#request.imageFit, this.#ctx);
      const isKnown = Array.from({ length: size.numFrames }, (_, i) => placed.some(({ at }) => at === i));
      const frames = this.#tensors.placedFrames(placed, size);
      const encode = () => this.#tensors.knownFrames(family, codec, frames, isKnown, this.#ctx.device);
      this.#known = this.#meter.during("known frames", encode);
    }
    return this.#tensors.repeatKnown(this.#known, batch);
  }

  [Symbol.dispose](): void {
    const texts = [...this.#texts.values()].flat().flatMap(({ states, mask }) => [states, mask]);
    const known = this.#known === undefined ? [] : [this.#known.latents, this.#known.mask];
    for (const tensor of [...texts, ...this.#images, ...known]) tensor.dispose();
  }
}
