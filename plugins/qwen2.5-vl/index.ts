/** Qwen2.5-VL: captions of clips by a checkpoint on this machine. */
import { definePlugin, provide, WaverError, z } from "../index.ts";
import { captionOptions } from "../language.ts";

const config = z.strictObject({
  path: z.string().optional().meta({ description: "folder of the checkpoint, when the request names none" }),
});

let configured: string | undefined;

function modelOf(path: string | undefined): string {
  const folder = path ?? configured;
  if (folder === undefined)
    throw new WaverError("needs_unmet", "no Qwen2.5-VL checkpoint is configured, and none comes with this package", {
      hint: "give path (caption.path), or `path` in the configuration of plugin qwen2.5-vl: a folder in Transformers' layout; or caption by an endpoint",
    });
  return folder;
}

export default definePlugin({
  name: "qwen2.5-vl",
  version: "0.1.0",
  hookApi: "0.1",
  config,
  provides: [
    provide("caption", {
      id: "qwen2.5-vl",
      summary: "captions by Qwen2.5-VL on this machine, from frames of the clip as one video",
      source: "Bai et al. 2025, arXiv 2502.13923; Waver 3.3 (what a caption covers)",
      runs: "device",
      options: captionOptions({
        maxFrames: 256,
        instruction:
          "Describe this video clip in one paragraph: subjects, their actions in order, background, camera motion, style and spatial relations as the viewer sees them. Say only what can be seen.",
      }),
      // Two frames a second (the reference's own rate); both sides are multiples of 28, a block of the vision tower.
      traits: { view: { width: 448, height: 336, fit: "cover", rate: 2, format: "rgb24", batch: 4 } },
      async bytes({ path, dtype }) {
        const { weightBytes } = await import("./checkpoint.ts");
        return weightBytes(modelOf(path), dtype);
      },
      async load({ path, dtype }, ctx) {
        const folder = modelOf(path);
        const { openCaptioner } = await import("./caption.ts");
        return openCaptioner(folder, { device: ctx.device, dtype });
      },
      run: (input, { state, options, ctx }) => state.caption(input, options, ctx),
    }),
  ],
  async setup({ config }) {
    configured = config.path;
    return undefined;
  },
});
