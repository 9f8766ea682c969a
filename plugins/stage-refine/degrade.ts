/**
 * How a clean clip becomes one that needs refining (Waver 2.2, Pixel and Latent Degradation).
 *
 * x0 is the clean latent, x that of the pixel-degraded clip, x_n = (1 - w_d) x + w_d n. The network is shown
 * x_input = w x_n + (1 - w) x0 and learns x0 - x_n: w = 1 is degraded, the target points to clean.
 */
import { interpolate, type Tensor } from "../../native/index.ts";

/** Filters for down and up that the paper leaves open. */
export type Filter = "bicubic" | "bilinear" | "area";

/** Down by `factor` and up again: 1080p -> 360p -> 1080p is 3. pixels [... 3 H W], any number of leading axes. */
export function degradePixels(
  pixels: Tensor,
  factor: number,
  filter: Filter = "bicubic",
): { down: Tensor; up: Tensor } {
  const shape = pixels.shape;
  const [C, H, W] = shape.slice(-3) as [number, number, number];
  const images = pixels.reshape([-1, C, H, W]);
  const small: [number, number] = [Math.round(H / factor), Math.round(W / factor)];
  const down = interpolate(images, {
    size: small,
    ...(filter === "area" ? { mode: "area" } : { mode: filter, antialias: true }),
  });
  const up = interpolate(down, {
    size: [H, W],
    ...(filter === "area" ? { mode: "bilinear" } : { mode: filter, antialias: true }),
  });
  return { down: down.reshape([...shape.slice(0, -2), ...small]), up: up.reshape(shape) };
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
