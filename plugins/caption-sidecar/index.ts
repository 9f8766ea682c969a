/** Captions that somebody has written down: in a file for many clips, or in files beside the videos. */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

const sidecar = z.strictObject({
  captions: z.string().optional().meta({
    description: "JSON, JSONL or CSV with file, start, end and caption; files beside each video are looked for as well",
    format: "path",
  }),
  minOverlap: z
    .number()
    .min(0)
    .max(1)
    .default(0.5)
    .meta({ description: "share of the clip that a caption's time range must cover" }),
});

export default definePlugin({
  name: "caption-sidecar",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("caption", {
      id: "sidecar",
      summary: "captions from files, by source and time range; the best overlap wins",
      runs: "worker",
      options: sidecar,
      traits: { view: null },
      async load() {
        const { Sidecars } = await import("./sidecar.ts");
        return new Sidecars();
      },
      async run({ clip, source }, { options, state }) {
        return state.captionOf(clip, source, options);
      },
    }),
    provide("caption", {
      id: "filename",
      summary: "the words in a file's or folder's name; a last resort, and logged as one",
      runs: "worker",
      options: z.strictObject({}),
      traits: { view: null },
      async run({ clip, source }, { ctx }) {
        const { wordsOf } = await import("./filename.ts");
        const text = wordsOf(source.path);
        if (text === null) return null;
        ctx.log("caption_from_filename", { clip: clip.id, caption: text });
        return { text, by: "filename" };
      },
    }),
  ],
});
