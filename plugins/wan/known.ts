/**
 * Known frames in Wan's three forms: beside the noise as channels (Wan 2.1 I2V and FLF2V, Wan 2.2 A14B), in its place
 * with a time of 0 (Wan 2.2 TI2V), or not at all (text to video).
 *
 * Axes: B batch, C latent channels, F pixel frames, T h w latent frames, rows, columns, S tokens.
 */
import { cat, scope, type Tensor, tensor, zeros } from "../../native/index.ts";
import { type Codec, type DenoiserInput, type KnownFrames, type Task, WaverError } from "../index.ts";

type Patch = readonly [number, number, number];

/** What a network is fed: latents [B C' T h w] and times [B], or one a token [B S]. */
interface Fed {
  readonly latents: Tensor;
  readonly timestep: Tensor;
}

export interface KnownForm {
  readonly tasks: readonly Task[];
  condition?(frames: Tensor, isKnown: readonly boolean[], codec: Codec): KnownFrames;
  finish?(latents: Tensor, known: KnownFrames): Tensor;
  input(given: Fed & Pick<DenoiserInput, "known">, patch: Patch): Fed;
}

/** Text to video. */
export const withoutKnown: KnownForm = {
  tasks: ["t2i", "t2v"],
  input({ latents, timestep, known }) {
    if (known !== undefined)
      throw new WaverError("invalid_input", "this Wan checkpoint makes video from text only", {
        hint: "leave the image out, or use an image-to-video checkpoint",
      });
    return { latents, timestep };
  },
};

/** Channels beside the noise: four of mask, then the latents of the known frames among mid-grey ones. */
export const besideNoise: KnownForm = {
  tasks: ["i2v", "interpolate"],
  condition(frames, isKnown, codec) {
    const [B, , F] = sizes(frames, isKnown);
    return scope(() => {
      const flags = tensor(isKnown.map(Number), { device: frames.device });
      const latents = codec.encode(frames.mul(flags.to(frames.dtype).view([1, 1, F, 1, 1])));
      const [, , T, h, w] = latents.shape as [number, number, number, number, number];
      const stride = codec.latent.stride[0];
      // the first frame stands for a whole group
      const mask = cat([flags.narrow(0, 0, 1).repeat([stride]), flags.narrow(0, 1, F - 1)])
        .view([1, T, stride, 1, 1])
        .transpose(1, 2);
      return { latents, mask: mask.expand([B, stride, T, h, w]).contiguous() };
    });
  },
  input({ latents, timestep, known }) {
    if (known === undefined)
      throw new WaverError("invalid_input", "this Wan checkpoint continues an image: give one", {
        hint: "give image, or use a text-to-video checkpoint",
      });
    // mask before latents (waver.md has them the other way round)
    return { latents: cat([latents, known.mask.to(latents.dtype), known.latents.to(latents.dtype)], 1), timestep };
  },
};

/** The known first frame in place of its noise, at time 0; what the network says of it is not used. */
export const inPlace: KnownForm = {
  tasks: ["t2i", "t2v", "i2v"],
  condition(frames, isKnown, codec) {
    const [B, , F, H, W] = sizes(frames, isKnown);
    if (isKnown.lastIndexOf(true) > 0)
      throw new WaverError("invalid_input", "this Wan checkpoint can be given a first frame and no other", {
        hint: "leave lastImage out",
      });
    return scope(() => {
      const [ft, fh, fw] = codec.latent.stride;
      const C = codec.latent.channels;
      const blank = (channels: number, T: number): Tensor =>
        zeros([B, channels, T, H / fh, W / fw], { device: frames.device });
      const isGiven = isKnown[0] === true;
      // the causal codec codes the first frame alone
      const first = isGiven ? codec.encode(frames.narrow(2, 0, 1)) : blank(C, 1);
      const mask = isGiven ? blank(ft, 1).add(1) : blank(ft, 1);
      const rest = (F - 1) / ft;
      return { latents: cat([first, blank(C, rest)], 2), mask: cat([mask, blank(ft, rest)], 2) };
    });
  },
  finish: (latents, known) => scope(() => replaced(latents, known)),
  input({ latents, timestep, known }, patch) {
    if (known === undefined || known.mask.any().item() === 0) return { latents, timestep };
    const [pt, ph, pw] = patch;
    const [T, h, w] = latents.shape.slice(2) as [number, number, number];
    const [t, y, x] = [Math.floor(T / pt), Math.floor(h / ph), Math.floor(w / pw)];
    const isKnown = known.mask
      .narrow(1, 0, 1)
      .slice(2, 0, t * pt, pt)
      .slice(3, 0, y * ph, ph)
      .slice(4, 0, x * pw, pw);
    const noisy = isKnown.to(timestep.dtype).neg().add(1).flatten(1); // [B S]
    return { latents: replaced(latents, known), timestep: noisy.mul(timestep.unsqueeze(1)) };
  },
};

/** Latents with the known ones in their place: [B C T h w]. */
const replaced = (latents: Tensor, { latents: known, mask }: KnownFrames): Tensor =>
  known.to(latents.dtype).where(mask.narrow(1, 0, 1).gt(0), latents);

function sizes(frames: Tensor, isKnown: readonly boolean[]): [number, number, number, number, number] {
  if (isKnown.length !== frames.size(2))
    throw new WaverError("shape_mismatch", `${isKnown.length} flags for ${frames.size(2)} frames`);
  return frames.shape as [number, number, number, number, number];
}
