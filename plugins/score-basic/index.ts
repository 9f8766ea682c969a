/** Attributes of a clip's source (Waver 3.1, basic attributes): what the container says, no pixel is looked at. */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

export default definePlugin({
  name: "score-basic",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("score", {
      id: "basic",
      summary: "frame rate, size, bit rate and duration",
      source: "Waver 3.1, basic attributes",
      runs: "worker",
      options: z.strictObject({}),
      traits: {
        // Frames are not read; the view is that of the visual scorer, so that asking for it costs no further decode.
        view: { width: 512, height: 288, fit: "stretch", rate: 4, format: "rgb24", batch: 8 },
        measures: ["fps", "width", "height", "shortSide", "bitrate", "bitsPerPixel", "duration"],
      },
      async run({ clip, source }) {
        const { fps, width, height, bitrate } = source;
        return {
          fps,
          width,
          height,
          bitrate,
          /** Pixels of the shorter side: 720 for 720p, upright video included. */
          shortSide: Math.min(width, height),
          /** Bits for one pixel of one frame: comparable between sizes and rates. */
          bitsPerPixel: bitrate / (width * height * fps),
          duration: clip.end - clip.start,
        };
      },
    }),
  ],
});
