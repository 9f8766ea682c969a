/**
 * How a clean clip becomes one that needs refining (Waver 2.2, Pixel and Latent Degradation).
 *
 * x0 is the clean latent, x that of the pixel-degraded clip, x_n = (1 - w_d) x + w_d n. The network is shown
 * x_input = w x_n + (1 - w) x0 and learns x0 - x_n: w = 1 is degraded, the target points to clean.
 */
import { interpolate, stack, type Tensor } from "../../native/index.ts";

/** Filters for down and up that the paper leaves open. */
export type Filter = "bicubic" | "bilinear" | "area";

/**
 * Down by `factor` and up again: 1080p -> 360p -> 1080p is 3. pixels [... 3 H W], any number of leading axes.
 * With `chroma` the small picture loses half of its colour resolution on the way, as in a file.
 */
export function degradePixels(
  pixels: Tensor,
  factor: number,
  filter: Filter = "bicubic",
  { chroma = false }: { chroma?: boolean } = {},
): { down: Tensor; up: Tensor } {
  const shape = pixels.shape;
  const [C, H, W] = shape.slice(-3) as [number, number, number];
  const images = pixels.reshape([-1, C, H, W]);
  const small: [number, number] = [Math.round(H / factor), Math.round(W / factor)];
  const down = interpolate(images, {
    size: small,
    ...(filter === "area" ? { mode: "area" } : { mode: filter, antialias: true }),
  });
  const up = interpolate(chroma ? halveChroma(down) : down, {
    size: [H, W],
    ...(filter === "area" ? { mode: "bilinear" } : { mode: filter, antialias: true }),
  });
  return { down: down.reshape([...shape.slice(0, -2), ...small]), up: up.reshape(shape) };
}

/** Luma of red, green and blue: BT.709, which our files say that they have. */
const LUMA = [0.2126, 0.7152, 0.0722] as const;

/**
 * Colour at half the resolution, as nearly every video file has it (4:2:0): shrunk bicubically, as ffmpeg does when it
 * writes, and repeated over two by two pixels, as it does when it reads. pixels [... 3 H W], even sides.
 */
export function halveChroma(pixels: Tensor): Tensor {
  const [r, g, b] = pixels.unbind(-3) as [Tensor, Tensor, Tensor];
  const luma = r.mul(LUMA[0]).add(g.mul(LUMA[1])).add(b.mul(LUMA[2]));
  const halved = (chroma: Tensor): Tensor => {
    const [H, W] = chroma.shape.slice(-2) as [number, number];
    const small = interpolate(chroma.reshape([-1, 1, H, W]), {
      size: [H / 2, W / 2],
      mode: "bicubic",
      antialias: true,
    });
    return interpolate(small, { size: [H, W], mode: "nearest" }).reshape(chroma.shape);
  };
  const [red, blue] = [luma.add(halved(r.sub(luma))), luma.add(halved(b.sub(luma)))];
  const green = luma.sub(red.mul(LUMA[0])).sub(blue.mul(LUMA[2])).div(LUMA[1]);
  return stack([red, green, blue], -3);
}

/** x_n = (1 - w_d) x + w_d n; w_d [B 1 1 1 1] or a number. */
export function degradeLatents(x: Tensor, noise: Tensor, wd: Tensor | number): Tensor {
  return x.lerp(noise, wd);
}

/** x_input = w x_n + (1 - w) x0 */
export function refinerInput(x0: Tensor, xn: Tensor, w: Tensor | number): Tensor {
  return x0.lerp(xn, w);
}

/**
 * w_d for latents of h x w that are disturbed as much as `wd` disturbs 1080p latents of 135 x 240 (our rule: equal
 * signal-to-noise after average pooling). Noise averages out over r = sqrt(135 * 240 / (h * w)) times as many elements.
 */
export function scaledNoise(wd: number, h: number, w: number): number {
  const r = Math.sqrt((135 * 240) / (h * w));
  return 1 / (1 + (r * (1 - wd)) / wd);
}
