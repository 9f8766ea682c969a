/** VideoLLaMA3, the network that Waver's quality model is made of: here as a captioner of clips. */
import { definePlugin, provide, WaverError, z } from "../index.ts";
import { captionOptions } from "../language.ts";

const config = z.strictObject({
  path: z.string().optional().meta({ description: "folder of the checkpoint, when the request names none" }),
});

let configured: string | undefined;

function modelOf(path: string | undefined): string {
  const folder = path ?? configured;
  if (folder === undefined)
    throw new WaverError("needs_unmet", "no VideoLLaMA3 checkpoint is configured, and none comes with this package", {
      hint: "give path in the pick, or `path` in the configuration of plugin videollama3: a folder in Transformers' layout",
    });
  return folder;
}

export default definePlugin({
  name: "videollama3",
  version: "0.1.0",
  hookApi: "0.1",
  config,
  provides: [
    provide("caption", {
      id: "videollama3",
      summary: "captions by VideoLLaMA3 on this machine, from frames of the clip with their times",
      source: "Zhang et al. 2025, arXiv 2501.13106; Waver 3.2 trains its quality model from it",
      runs: "device",
      options: captionOptions({
        maxFrames: 180,
        instruction:
          "Describe this video in one paragraph: subjects, their actions in order, background, camera motion and style. Say only what can be seen.",
      }),
      // One frame a second is the reference's own rate; two show what happens in clips of 2 to 10 seconds. Sides are multiples of 28.
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
