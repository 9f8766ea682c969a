/** The tensor side of `generate`: noise, known frames, text in batches, latents on disk, pixels. Axes as in plugins/types.ts. */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import {
  cat,
  Generator,
  noGrad,
  openSafetensors,
  pad,
  randn,
  Scope,
  saveSafetensors,
  scope,
  Tensor,
  tensor,
  zeros,
} from "../../../native/index.ts";
import {
  type AcceleratorMemory,
  type Codec,
  type Conditioning,
  type Denoiser,
  type FrameBatch,
  type ImageEncoder,
  type KnownFrames,
  type SampleRequest,
  WaverError,
} from "../../../plugins/index.ts";

/** Noise of one whole sample, drawn on the CPU: the same on any device, batch and number of processes (seed contract). */
export const noise = (shape: readonly number[], seed: number): Tensor => {
  using generator = new Generator(seed);
  return randn(shape, { generator });
};

/** Starting latents of a batch, [1 ..] each -> [B ..] on the device. */
export const started = <S>(batch: readonly S[], device: string, row: (sample: S) => Tensor): Tensor =>
  scope(() => cat(batch.map(row)).to(device));

/** Tensors of a stretch of work that spans awaits, in whatever they come; freed together. */
export class Held implements Disposable {
  readonly #scope = new Scope();

  /** Takes over every tensor in `value`: itself, or in the arrays and plain objects it is made of. */
  keep<T>(value: T): T {
    if (value instanceof Tensor) this.#scope.own(value);
    else if (typeof value === "object" && value !== null) for (const each of Object.values(value)) this.keep(each);
    return value;
  }

  [Symbol.dispose](): void {
    this.#scope.dispose();
  }
}

/** Starting latents from a file: `path`, or `path#key` when it holds several tensors. [N C T h w], or one for all. */
export function readLatents(source: string, shape: readonly number[], index: number): Tensor {
  const [, path = "", key] = source.match(/^(.*?)(?:#([^#/]+))?$/) ?? [];
  using file = openSafetensors(path);
  const name = key ?? (file.keys.length === 1 ? file.keys[0] : file.keys.includes("latents") ? "latents" : undefined);
  if (name === undefined || !file.has(name))
    throw new WaverError("invalid_input", `latents: ${path} holds ${file.keys.length} tensors`, {
      hint: `name one: ${path}#${file.keys[0] ?? "latents"}`,
    });
  return scope(() => {
    const all = file.get(name).to("float32");
    const fits =
      all.ndim === 5 &&
      shape.slice(1).every((n, i) => n === all.size(i + 1)) &&
      (all.size(0) === 1 || index < all.size(0));
    if (!fits)
      throw new WaverError("shape_mismatch", `latents: ${name} is [${all.shape}], sample ${index} needs [${shape}]`);
    return all.narrow(0, all.size(0) === 1 ? 0 : index, 1).clone();
  });
}

/** Known frames among unknown ones: [1 3 F H W] in [-1, 1]. */
export const placedFrames = (
  known: readonly { readonly at: number; readonly image: FrameBatch }[],
  size: { width: number; height: number; numFrames: number },
): Tensor =>
  scope(() => {
    const { width, height, numFrames } = size;
    const images = known.map(({ at, image }) => ({
      at,
      pixels: tensor(image.data)
        .view([height, width, 3])
        .permute([2, 0, 1])
        .float()
        .div(127.5)
        .sub(1)
        .view([1, 3, 1, height, width]),
    }));
    const blank = (count: number): Tensor[] => (count > 0 ? [zeros([1, 3, count, height, width])] : []);
    const parts: Tensor[] = [];
    let next = 0;
    for (const { at, pixels } of images) {
      parts.push(...blank(at - next), pixels);
      next = at + 1;
    }
    return cat([...parts, ...blank(numFrames - next)], 2);
  });

/** Tokens [1 I D] of a picture in its own size. */
export function encodePicture(encoder: ImageEncoder, { data, width, height }: FrameBatch, device: string): Tensor {
  return noGrad(() =>
    scope(() => {
      const pixels = tensor(data).view([1, height, width, 3]).permute([0, 3, 1, 2]).contiguous();
      const tokens = encoder.encode(pixels.to({ device }));
      assertFinite(tokens, "the image encoder");
      return tokens;
    }),
  );
}

/** Tokens of several pictures one after the other, the same for every row of a batch: [1 I D] each -> [B I' D]. */
export const joinTokens = (tokens: readonly Tensor[], batch: number): Tensor =>
  scope(() => cat(tokens, 1).repeat([batch, 1, 1]));

/** What the network is told about known frames: [1 ..]. Takes `frames` over. */
export function knownFrames(
  family: Denoiser,
  codec: Codec,
  frames: Tensor,
  isKnown: readonly boolean[],
  device: string,
): KnownFrames {
  try {
    return noGrad(() =>
      scope(() => {
        const one = (family.condition as NonNullable<Denoiser["condition"]>)(frames.to(device), isKnown, codec);
        assertFinite(one.latents, "encoding the known frames");
        return one;
      }),
    );
  } finally {
    frames.dispose();
  }
}

/** The same for every row of a batch: [1 ..] -> [B ..]. */
export const repeatKnown = ({ latents, mask }: KnownFrames, batch: number): KnownFrames =>
  scope(() => ({ latents: latents.repeat([batch, 1, 1, 1, 1]), mask: mask.repeat([batch, 1, 1, 1, 1]) }));

/** Texts of a batch, each [1 L D], as one: rows padded with zeros to the longest, or to `length`. Belongs to the caller. */
export function joinTexts(texts: readonly Conditioning[], length?: number): Conditioning {
  return scope(() => {
    const L = length ?? Math.max(...texts.map(({ mask }) => mask.size(1)));
    const rows = texts.map(({ states, mask }) => {
      if (mask.size(1) > L)
        throw new WaverError("invalid_input", `a prompt has ${mask.size(1)} tokens, and this model takes ${L}`, {
          hint: `set maxTokens to ${L} or less`,
        });
      const missing = L - mask.size(1);
      return { states: pad(states, [0, 0, 0, missing]), mask: pad(mask, [0, missing]) };
    });
    return { states: cat(rows.map((row) => row.states)), mask: cat(rows.map((row) => row.mask)) };
  });
}

/** A black video is not a result: whatever is no number ends the job and names the stage. */
export function assertFinite(value: Tensor, stage: string, detail = ""): void {
  const finite = scope(() => value.isFinite().all().item());
  if (finite !== 1)
    throw new WaverError("numeric_invalid", `${stage} gave values that are no numbers${detail}`, {
      hint: "try dtype float32, another sampler, or check the checkpoint",
    });
}

/** Where a killed sample goes on: latents after `step` and what the solver remembers. */
export interface Progress {
  readonly step: number;
  readonly latents: Tensor;
  readonly state: Readonly<Record<string, Tensor>>;
  /** What guides remember of earlier steps. */
  readonly guides: Readonly<Record<string, Tensor>>;
  /** What an accelerator remembers of earlier steps. */
  readonly memory?: AcceleratorMemory | undefined;
}

/** Written whole or not at all. `guides` makes its tensors for the file. */
export function saveProgress(
  path: string,
  { step, latents, state, guides, memory }: Omit<Progress, "guides"> & { guides(): Progress["guides"] },
): void {
  const under = (prefix: string, tensors: Readonly<Record<string, Tensor>>): Record<string, Tensor> =>
    Object.fromEntries(Object.entries(tensors).map(([name, value]) => [prefix + name, value]));
  scope(() =>
    saveSafetensors(
      path,
      { latents, ...under("state.", state), ...under("guide.", guides()), ...under("memory.", memory?.tensors ?? {}) },
      { step: String(step), ...(memory === undefined ? {} : { memory: JSON.stringify(memory.facts) }) },
    ),
  );
}

export function loadProgress(path: string, device: string): Progress | undefined {
  if (!existsSync(path)) return undefined;
  using file = openSafetensors(path);
  // copies: the file is replaced while its tensors are in use
  return scope(() => {
    const read = (key: string): Tensor => file.get(key).to({ device, copy: true });
    const under = (prefix: string): Record<string, Tensor> =>
      Object.fromEntries(
        file.keys.filter((key) => key.startsWith(prefix)).map((key) => [key.slice(prefix.length), read(key)]),
      );
    const { step, memory } = file.metadata;
    return {
      step: Number(step),
      latents: read("latents"),
      state: under("state."),
      guides: under("guide."),
      ...(memory === undefined ? {} : { memory: { tensors: under("memory."), facts: JSON.parse(memory) as unknown } }),
    };
  });
}

export const forgetProgress = (path: string): Promise<void> => rm(path, { force: true });

export function saveLatents(path: string, latents: Tensor): void {
  saveSafetensors(path, { latents });
}

export function loadLatents(path: string, index: number, device: string): Tensor {
  using file = openSafetensors(path);
  return scope(() => file.get("latents").narrow(0, index, 1).to({ device, copy: true }));
}

/** A network call without a graph: weights that were trained in this runner may still ask for one. */
export const quietly =
  (predict: SampleRequest["predict"]): SampleRequest["predict"] =>
  (latents, t, at) =>
    noGrad(() => predict(latents, t, at));
