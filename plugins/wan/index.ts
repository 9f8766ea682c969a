/** The diffusion transformer of Wan 2.1 (text, image, first and last frame to video) and Wan 2.2. */
import { definePlugin, provide, WEIGHTS, WeightForm, z } from "../index.ts";

/** What Wan's authors keep all their models away from (Wan-Video/Wan2.1, wan/configs/shared_config.py, sample_neg_prompt). */
const NEGATIVE =
  "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

export default definePlugin({
  name: "wan",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("family", {
      id: "wan",
      summary: "Wan's DiT: full attention over video tokens, text by cross-attention",
      source: "Wan 4.2, arXiv 2503.20314; key names and configuration of diffusers' WanTransformer3DModel",
      runs: "device",
      options: z.strictObject({
        path: z
          .string()
          .describe("folder with weights, for instance MODEL/transformer, or one .safetensors file of Wan or ComfyUI"),
        dtype: z.enum(["float32", "bfloat16"]).optional().describe("precision of the weights; as stored when absent"),
        weights: WeightForm.optional().describe(WEIGHTS),
        textLength: z
          .int()
          .positive()
          .optional()
          .describe("rows of text the model expects, zeros after the prompt; 512 in every published checkpoint"),
        offload: z
          .boolean()
          .optional()
          .describe("weights of the blocks are on the device around their turns only, for networks larger than it"),
        expandTimesteps: z
          .boolean()
          .optional()
          .describe("a known first frame is held at time 0 (Wan 2.2 TI2V); as MODEL/model_index.json says when absent"),
      }),
      traits: {
        classes: ["WanTransformer3DModel"],
        tasks: ["t2i", "t2v", "i2v", "interpolate"],
        trainable: true,
        negativePrompt: NEGATIVE,
      },
      outlines: true,
      async bytes({ path, ...settings }) {
        const { residentBytes } = await import("./denoiser.ts");
        return residentBytes(path, settings);
      },
      async load({ path, ...settings }, ctx) {
        const { WanDenoiser } = await import("./denoiser.ts");
        return WanDenoiser.load(path, { ...settings, device: ctx.device });
      },
      run: async (_input, { state }) => state,
    }),
    provide("layout", {
      id: "wan",
      summary: "folders as Wan's authors publish them, and a transformer's file in ComfyUI's tree of models",
      source: "Wan-Video/Wan2.1 and Wan2.2: wan/configs, generate.py",
      runs: "worker",
      options: z.strictObject({}),
      traits: {},
      async run({ path }) {
        const { authorsFolder, comfyFile } = await import("./layout.ts");
        return authorsFolder(path) ?? comfyFile(path);
      },
    }),
  ],
});
