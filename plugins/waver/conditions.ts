/**
 * Known frames as the network sees them: I and Mask (Waver 2.1, Unified Input Formulation).
 *
 * I holds "the VAE-encoded latents of any known conditioning frames, with other frames filled by black image latents";
 * Mask says which frames are known. One network does T2I, T2V, I2V and interpolation by this alone.
 *
 * Axes: B batch, F pixel frames, T latent frames, H W pixels, h w latent rows and columns.
 */
import { cat, type Tensor } from "../../native/index.ts";
import { WaverError } from "../errors.ts";
import { MASK_CHANNELS } from "./params.ts";

/** The codec, as far as it is needed here: video [B 3 F H W] -> normalised latents [B C T h w]. */
interface Encoder {
  encode(video: Tensor): Tensor;
}

const BLACK = -1;

/** frames [B 3 F H W] (anything where unknown), known bool [B F] -> I [B C T h w], Mask [B 4 T h w]. */
export function conditions(frames: Tensor, known: Tensor, encoder: Encoder): { latents: Tensor; mask: Tensor } {
  // A causal codec lets a known frame leak into the black ones after it, so the composed video is encoded as a whole.
  const latents = encoder.encode(composed(frames, known));
  return { latents, mask: foldMask(known, latents.size(-2), latents.size(-1)).to(latents.dtype) };
}

/** Unknown frames are black. */
export function composed(frames: Tensor, known: Tensor): Tensor {
  return frames.where(known.to("bool").unsqueeze(1).unsqueeze(-1).unsqueeze(-1), BLACK);
}

/**
 * One value a pixel frame [B F] -> [B 4 T h w], 1 = known. The first frame fills all four channels of latent frame 0;
 * frames 4k-3 ... 4k are the four channels of latent frame k in that order, as in Wan.
 */
export function foldMask(known: Tensor, h: number, w: number): Tensor {
  const [B, F] = known.shape as [number, number];
  if ((F - 1) % MASK_CHANNELS !== 0)
    throw new WaverError("shape_mismatch", `${F} frames; a video has 1 + 4k`, {
      hint: `use ${1 + 4 * Math.floor((F - 1) / 4)} frames`,
    });
  const T = 1 + (F - 1) / MASK_CHANNELS;
  const first = known.narrow(1, 0, 1).expand([B, MASK_CHANNELS]);
  const folded = cat([first, known.narrow(1, 1, F - 1)], 1)
    .reshape([B, T, MASK_CHANNELS])
    .transpose(1, 2);
  return folded.float().unsqueeze(-1).unsqueeze(-1).expand([B, MASK_CHANNELS, T, h, w]);
}

/** I from stored latents: `known` [B C T h w] where Mask says so, `black` [1 C 1 h w] elsewhere. */
export function conditionsFromLatents(known: Tensor, black: Tensor, mask: Tensor): Tensor {
  return known.where(mask.amax(1, true).gt(0), black);
}
