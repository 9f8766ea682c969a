/** The causal video VAE of Wan 2.1 and Wan 2.2 (diffusers' AutoencoderKLWan), and the nano VAE that has its form. */
import { definePlugin, provide, z } from "../index.ts";

const pair = z.tuple([z.int().positive(), z.int().positive()]);
const options = z.strictObject({
  path: z
    .string()
    .describe("folder with weights, for instance MODEL/vae, or one .safetensors file of Diffusers, Wan or ComfyUI"),
  dtype: z
    .enum(["float32", "bfloat16", "float16"])
    .optional()
    .describe("precision of the weights; as stored when absent"),
  perChunk: z
    .int()
    .positive()
    .optional()
    .describe("latent frames that are decoded between two frames handed out; the result is the same, one when absent"),
  tiling: z
    .strictObject({ size: pair, stride: pair })
    .optional()
    .describe("rows and columns of a tile, and how far apart tiles start, in pixels"),
});

export default definePlugin({
  name: "wan-vae",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("codec", {
      id: "wan-vae",
      summary: "causal video VAE with a feature cache: 4x in time, 8x or 16x in space",
      source: "Wan 4.1, arXiv 2503.20314; key names and configuration of diffusers' AutoencoderKLWan",
      runs: "device",
      options,
      traits: { classes: ["AutoencoderKLWan"], latent: "wan" },
      outlines: true,
      async bytes({ path, dtype }) {
        const { weightBytes } = await import("./codec.ts");
        return weightBytes(path, dtype);
      },
      async load({ path, ...settings }, ctx) {
        const { WanVae } = await import("./codec.ts");
        return WanVae.load(path, { ...settings, device: ctx.device });
      },
      run: async (_input, { state }) => state,
    }),
  ],
});
