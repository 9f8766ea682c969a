/** LoRA files on a network that stays as it is. */
import { definePlugin, provide, z } from "../index.ts";
import type { LoraFile } from "./file.ts";

export default definePlugin({
  name: "lora",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("adapt", {
      id: "lora",
      summary: "low-rank additions beside a network's weights, in PEFT's, diffusers' or Kohya's naming",
      source: "Hu et al. 2021, arXiv 2106.09685",
      runs: "device",
      options: z.strictObject({
        path: z.string().describe("safetensors file, or folder with one (and PEFT's adapter_config.json)"),
      }),
      traits: { formats: ["lora"] },
      async bytes({ path }) {
        const { weightBytes } = await import("./file.ts");
        return weightBytes(path);
      },
      async load({ path }, ctx): Promise<LoraFile> {
        const { LoraFile } = await import("./file.ts");
        return LoraFile.open(path, ctx.device);
      },
      async run({ denoiser }, { state }) {
        return state.on(denoiser);
      },
    }),
  ],
});
